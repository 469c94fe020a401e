"""Rows 43, 64, 65 and others: what a report replaces, pictures that fail, runs with odd values."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import report
from data_loader.class_names import MOST_IN_MATRIX
from logger.confusion import Confusion, confusion_picture
from logger.tables import write_csv, write_diagnostics
from reporting.figures.style import MOST_PANELS
from reporting.render.markdown import markdown
from reporting.render.writing import read_results, report_files
from reporting.runs.reading import read_metrics
from reporting.runs.settings import SETTINGS
from reporting.text.document import document
from tests.conftest import ROOT
from tests.faults import file_system, kill_at, limit_file_size
from tests.made_runs import METRICS, config, write_cell, write_run
from tests.runs import Started, coco, evaluate, launch, one_line
from trainer.judgement import TestReport
from trainer.preflight import _class_counts
from utils.errors import DataError
from utils.folder import Folder
from utils.text import csv_cell

RTL = "\N{RIGHT-TO-LEFT OVERRIDE}"
NAMES = ("$a_$", r"\frac{1}{0}", "a_b^c", "$", "$\\bad{", f"x{RTL}y\x1b[31m", "猫", "a" * 5000, "a\nb", "\ud800")


def run_report(*arguments: object) -> int:
    return report.main([str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def in_process(arguments: Sequence[object], **settings: str) -> subprocess.CompletedProcess[str]:
    """A program in a fresh process, in which nothing of ours has imported matplotlib yet."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_cell(folder, "bn", 0.0, {12: 0.5, 13: 0.6})
    return folder


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on `runs`; read only."""
    folder = tmp_path_factory.mktemp("report") / "out"
    assert run_report(runs, "-o", folder) == 0
    return folder


# --- 43 --------------------------------------------------------------------------------------------------------------

MINE = ("results.md", "results.html", "results.csv", "results.tex", "results/stability.svg")


@pytest.mark.parametrize("name", MINE)
def test_43_a_file_of_the_users(
    runs: Path, written: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(written, output)
    (output / name).write_text("my own work, results and all\n")
    before = contents(output)
    assert run_report(runs, "-o", output) == 5
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert name in said
    assert "no report wrote" in said
    assert contents(output) == before


def test_43_an_older_report_is_replaced(written: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "out", tmp_path / "runs"
    shutil.copytree(written, output)
    for path in output.rglob("*.*"):  # as an editor or git leaves text on Windows
        path.write_bytes(b"\xef\xbb\xbf" * (path.suffix == ".csv") + path.read_bytes().replace(b"\n", b"\r\n"))
    shutil.copy(output / "results" / "stability.svg", output / "results" / "curves-mine.svg")
    (output / "results" / "curves-my-own.svg").write_text("<svg/>")
    (output / "results" / "robustness.svg").symlink_to(output / "results" / "stability.svg")
    write_cell(other, "bn", 0.0, {12: 0.5}, dataset="coco")
    assert run_report(other, "-o", output) == 0
    assert sorted(contents(output)) == [
        *("results.csv", "results.html", "results.md", "results.tex"),
        *("results/curves-coco-0noise.svg", "results/curves-my-own.svg", "results/robustness.svg"),
        "results/stability.svg",
    ]
    assert contents(output)["results.csv"].startswith(b"dataset,")


@pytest.mark.parametrize("name", ["results.md", "results/stability.svg", "results"])
def test_43_a_link_where_a_report_writes(
    runs: Path, written: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output, target = tmp_path / "out", tmp_path / "target"
    shutil.copytree(written, output)
    (output / name).rename(target)
    (output / name).symlink_to(target)
    before = contents(tmp_path)
    assert run_report(runs, "-o", output) == 5
    assert str(output / name) in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_43_a_full_disk_leaves_the_older_report(runs: Path, written: Path, tmp_path: Path) -> None:
    pages = sum(-(-len(data) // 4096) for data in contents(written).values())  # a second report has no room beside it
    with file_system(tmp_path / "disk", f"{pages * 4 * 3 // 2 + 16}k") as disk:
        shutil.copytree(written, disk / "out")
        before = contents(disk)
        one_line(Started([runs, "-o", disk / "out"], tmp_path / "process", program="report.py").end(), 5, "No space")
        assert contents(disk) == before
        assert sorted(p.name for p in (disk / "out").iterdir()) == sorted(p.name for p in written.iterdir())


def test_01_43_what_a_killed_report_left_goes_with_the_next(runs: Path, written: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(written, tmp_path / "out"))
    before = contents(output)
    killed = Started([runs, "-o", output], tmp_path / "process", [kill_at("mid-write", "results.tex")], "report.py")
    assert killed.end().code == -signal.SIGKILL
    assert {name: data for name, data in contents(output).items() if not name.endswith(".tmp")} == before
    assert len(list(output.rglob(".*.tmp"))) > 1
    assert Started([runs, "-o", output], tmp_path / "process", program="report.py").end().code == 0
    assert contents(output).keys() == before.keys()


def test_43_records_replace_records_alone(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries: list[str | zipfile.ZipInfo] = ["chapter.txt", "config.json", "metrics.csv"]
    entries.append(zipfile.ZipInfo("data.json"))  # has the date of records
    for number, entry in enumerate([None, *entries]):
        mine = tmp_path / f"mine-{number}.zip"
        mine.write_text("mine")
        if entry is not None:
            with zipfile.ZipFile(mine, "w") as archive:
                archive.writestr(entry, "mine")
        before = mine.read_bytes()
        assert run_report(runs, "-o", tmp_path / "out", "--records", mine) == 5
        assert "no zip of records" in capsys.readouterr().err
        assert mine.read_bytes() == before
    for _ in range(2):
        assert run_report(runs, "-o", tmp_path / "out", "--records", tmp_path / "records.zip") == 0


@pytest.mark.parametrize("name", ["config.json", "metrics.csv"])
def test_43_records_follow_no_link(runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    received = shutil.copytree(runs, tmp_path / "runs")
    file = next(received.rglob(name))
    file.replace(tmp_path / "private")
    file.symlink_to(tmp_path / "private")
    assert run_report(received, "-o", tmp_path / "out", "--records", tmp_path / "x.zip") == 5
    assert f"{name} is a link" in capsys.readouterr().err
    assert not (tmp_path / "x.zip").exists()


# --- 52 --------------------------------------------------------------------------------------------------------------


def test_52_cells_that_a_spreadsheet_would_run() -> None:
    for text in ("=cmd|' /C calc'!A0", "+a", "-a", "@a", "\ta", "\ra", " =a", "\N{FULLWIDTH EQUALS SIGN}a", "-"):
        assert csv_cell(text) == f"'{text}"
    for value in ("-1.5", "+2e3", "a=b", "", "bn", -1.5, 3, None):
        assert csv_cell(value) == value


def test_52_names_in_every_table_that_is_written(tmp_path: Path) -> None:
    evil = "=cmd()"
    write_run(tmp_path / "run", config(f"{evil}_@a_0noise", "@a", 0.0, 12, 1), {"test_accuracy": [0.5]})
    (row,) = csv.DictReader(io.StringIO(report_files(read_results([tmp_path]))["results.csv"]))
    assert (row["dataset"], row["arm"]) == (f"'{evil}", "'@a")
    write_csv(Folder(tmp_path), [{"epoch": 1, "lr": -1.5, evil: 2.0}])
    header, figures = (tmp_path / METRICS).read_text().splitlines()
    assert f",'{evil}," in header
    assert figures.startswith("1,-1.5,")
    keys = ("epoch", "layer", "largest_singular_value", "smallest_singular_value", "gradient_norm", "weight_norm")
    write_diagnostics(Folder(tmp_path), [dict(zip(keys, (1, evil, -1.0, 1.0, 1.0, 1.0), strict=True))])
    assert (tmp_path / "diagnostics.csv").read_text().splitlines()[1].startswith(f"1,'{evil},-1,")


# --- 64 --------------------------------------------------------------------------------------------------------------

MEASURE = """
import resource
import torch
from logger.confusion import Confusion, confusion_picture
true = torch.arange(1000).repeat_interleave(20)
predicted = torch.where(torch.rand(len(true)) < 0.5, true, torch.randint(0, 1000, (len(true),)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picture = confusion_picture(Confusion.of(predicted, true, [f"class {i}" for i in range(1000)]), "title")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, len(picture))
"""


def test_64_the_picture_of_1000_classes(tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text(MEASURE)
    ended = Started([], tmp_path / "process", program=str(tmp_path / "measure.py")).end()
    assert (ended.code, ended.err) == (0, "")
    memory, size = map(int, ended.out.split())
    assert memory < 300 * 1024
    assert size < 1 << 20


def test_64_the_numbers_of_the_mistakes() -> None:
    true = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    predicted = torch.tensor([0, 1, 1, 1, 5, 0, 0, 0, 2])  # 5: an output beyond the classes
    found = Confusion.of(predicted, true, ("a", "b", "c", "d"))
    assert found.matrix().tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [3, 0, 1, 0], [0, 0, 0, 0]]
    assert found.matrix(2).tolist() == [[4, 0], [3, 1]]
    assert (found.right.tolist(), found.images.tolist()) == ([1, 1, 1, 0], [3, 2, 4, 0])
    assert [str(mistake) for mistake in found.worst(3)] == [
        "c taken for a: 3 (75%)",
        "a taken for b: 2 (67%)",
        "b taken for output 5: 1 (50%)",
    ]


def made_report(classes: int) -> TestReport:
    true = torch.arange(classes).repeat(4)
    predicted = torch.where(torch.arange(len(true)) % 3 == 0, (true + 1) % classes, true)
    figures = {"loss": 1.0, "accuracy": 0.5, "top5_accuracy": 0.6, "balanced_accuracy": 0.4}
    return TestReport("x.pth", 1, tuple(f"class {n}" for n in range(classes)), figures, predicted, true, {}, (), "cpu")


@pytest.mark.parametrize("classes", [3, 40, 41, 300, MOST_IN_MATRIX + 1])
def test_64_the_table_and_the_json(classes: int) -> None:
    made = made_report(classes)
    table, found = "\n".join(made.table()), json.loads(made.as_json())
    assert {len(line) for line in made.table()[2:5]} == {2 + len("balanced_accuracy") + 2 + len("50.00%")}
    assert len(table.splitlines()) <= 65
    assert len(table) < 12_000
    assert len(found["per_class_accuracy"]) == len(found["classes"]) == classes
    assert len(found["worst_confusions"]) == min(20, int((made.confusion.true != made.confusion.predicted).sum()))
    if classes <= MOST_IN_MATRIX:
        assert torch.tensor(found["confusion_matrix"]).sum() == 4 * classes
    else:
        assert sum(count for _, _, count in found["confusion_pairs"]) == 4 * classes
    if classes > 40:
        assert "taken for" in table


def test_64_a_test_set_that_lacks_most_classes() -> None:
    true = torch.tensor([5, 9, 9])
    names, figures = tuple(f"class {n}" for n in range(50)), {"loss": 1.0, "accuracy": 1.0}
    table = "\n".join(TestReport("x.pth", 1, names, figures, true, true, {}, (), "cpu").table())
    assert "the worst 2 of 50 classes" in table
    assert "the best" not in table, "no class is left for it"


def test_64_the_classes_that_a_check_lists() -> None:
    labels = torch.arange(300).repeat_interleave(torch.arange(300))
    parts = {"train": torch.arange(len(labels)), "val": torch.arange(2)}
    dataset = SimpleNamespace(classes=[f"class {n}\x1b" for n in range(300)], labels=labels)
    lines = _class_counts(SimpleNamespace(dataset=dataset, splits=SimpleNamespace(named=lambda: parts)))
    assert len(lines) == 31
    assert lines[1].split()[-2:] == ["0", "0"]
    assert lines[-1].split() == ["class", "299\\x1b", "299", "0"]


@pytest.mark.pictures
def test_64_a_signal_while_the_picture_is_drawn(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    drawing = tmp_path / "drawing"
    started = Started(["-r", tmp_path / "run" / "model_best.pth"], tmp_path / "p", [Slow(drawing)], "test.py")
    started.until(drawing.exists)
    started.send(signal.SIGTERM)
    ended = started.end(60)
    one_line(ended, 143, "SIGTERM")
    assert (tmp_path / "run" / "model_best-test.json").exists()


@pytest.mark.pictures
def test_64_a_signal_while_a_run_draws_its_last_picture(coco_dir: Path, tmp_path: Path) -> None:
    drawing = tmp_path / "drawing"
    arguments = coco(coco_dir, tmp_path / "run", "trainer.epochs=1", "lr_scheduler.args.milestones=[1]")
    started = Started(arguments, tmp_path / "p", [Slow(drawing)])
    started.until(drawing.exists)
    started.send(signal.SIGINT)
    one_line(started.end(60), 130, "saved")
    assert (tmp_path / "run" / "checkpoint-epoch1.pth").exists()


class Slow:
    """A picture takes minutes, as one on a busy machine may; the file `began` says that it has begun."""

    def __init__(self, began: Path) -> None:
        self.began = began

    def __call__(self) -> None:
        from matplotlib.figure import Figure

        def slow(*_: object, **options: object) -> None:
            self.began.touch()
            for _ in range(6000):
                time.sleep(0.02)

        Figure.savefig = slow


# --- 65 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd_settings(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "rc").write_text("text.usetex : True\nbackend : TkAgg\nfont.family : no such font\n")
    return {"MATPLOTLIBRC": str(tmp_path / "rc"), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}


def test_65_a_report_whatever_is_set_for_matplotlib(runs: Path, tmp_path: Path, odd_settings: dict[str, str]) -> None:
    arguments = ["report.py", runs, "-o", tmp_path / "out"]
    ended = in_process(arguments, **{**odd_settings, "MPLBACKEND": "no such backend"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(list((tmp_path / "out" / "results").glob("*.svg"))) == 2


@pytest.mark.slow
def test_65_a_test_whatever_is_set_for_matplotlib(finished: Path, tmp_path: Path, odd_settings: dict[str, str]) -> None:
    shutil.copytree(finished, tmp_path / "run")
    ended = in_process(["test.py", "-r", tmp_path / "run" / "model_best.pth"], **odd_settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "run" / "model_best-confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_65_a_run_whatever_is_set_for_matplotlib(coco_dir: Path, tmp_path: Path, odd_settings: dict[str, str]) -> None:
    arguments = coco(coco_dir, tmp_path / "run", "trainer.epochs=1", "lr_scheduler.args.milestones=[1]")
    ended = in_process(["train.py", *arguments], **odd_settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    events = next((tmp_path / "run").glob("events*"))
    assert b"test/confusion" in events.read_bytes()


@pytest.mark.pictures
@pytest.mark.parametrize("classes", [len(NAMES), 40])
def test_65_names_are_drawn_as_they_stand(classes: int, capfd: pytest.CaptureFixture[str]) -> None:
    names = [*NAMES, *(f"{n}$x$" for n in range(classes - len(NAMES)))]
    true = torch.arange(classes)
    assert confusion_picture(Confusion.of(true.flip(0), true, names), "$x_$ \\frac").startswith(b"\x89PNG")
    assert capfd.readouterr().err == ""


class Broken:
    """No figure can be made."""

    def __init__(self, error: str) -> None:
        self.error = error

    def __call__(self) -> None:
        import builtins

        import matplotlib.figure

        def broken(*_: object, **options: object) -> None:
            raise getattr(builtins, self.error)("it is broken")

        matplotlib.figure.Figure.__init__ = broken


@pytest.mark.pictures
@pytest.mark.parametrize("error", ["ImportError", "MemoryError", "OSError"])
def test_65_no_picture_is_one_warning(finished: Path, tmp_path: Path, error: str) -> None:
    shutil.copytree(finished, tmp_path / "run")
    ended = evaluate(tmp_path, "-r", tmp_path / "run" / "model_best.pth", prepare=[Broken(error)])
    one_line(ended, 0, "no picture of the confusion matrix")
    assert (tmp_path / "run" / "model_best-test.json").exists()


@pytest.mark.pictures
def test_65_a_run_without_its_last_picture(coco_dir: Path, tmp_path: Path) -> None:
    arguments = coco(coco_dir, tmp_path / "run", "trainer.epochs=1", "lr_scheduler.args.milestones=[1]")
    one_line(launch(tmp_path, *arguments, prepare=[Broken("ImportError")]), 0, "no picture of the confusion matrix")


def test_65_a_report_without_matplotlib(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('it is broken')\n")
    ended = in_process(["report.py", runs, "-o", tmp_path / "out"], PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("could not be drawn") == 1
    assert sorted(contents(tmp_path / "out")) == ["results.csv", "results.html", "results.md", "results.tex"]
    assert "This picture could not be drawn." in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.pictures
def test_65_a_full_disk_for_the_picture_alone(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    room_for_the_numbers = limit_file_size(8_000)
    ended = evaluate(tmp_path, "-r", tmp_path / "run" / "model_best.pth", prepare=[room_for_the_numbers])
    one_line(ended, 0, "no picture of the confusion matrix", "model_best-confusion.png")
    assert "wrote" in ended.out


# --- 72, 74, 75 ------------------------------------------------------------------------------------------------------

FILES = ("config.json", METRICS, "diagnostics.csv", "data.json", "diverged.json")


@pytest.mark.parametrize("kind", ["fifo", "device", "large", "loop"])
@pytest.mark.parametrize("name", [*FILES, "grid.json"])
def test_72_files_that_never_end(tmp_path: Path, name: str, kind: str) -> None:
    write_cell(tmp_path / "runs", "bn", 0.0, {12: 0.5, 13: 0.6})
    folder = tmp_path / "runs" / ("" if name == "grid.json" else "cifar10_bn_0noise/seed12")
    (folder / name).unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    elif kind == "loop":
        (folder / name).symlink_to(folder / name)
    else:
        with open(folder / name, "wb") as file:
            file.truncate(5 << 30)
    if name == "grid.json":
        with pytest.raises(DataError, match="not what grid"):
            read_results([tmp_path / "runs"])
        return
    results = read_results([tmp_path / "runs"])
    assert len(results.finished) == (1 if name in ("config.json", METRICS) else 2)
    assert any("seed12" in warning for warning in results.warnings)


def test_72_folders_within_folders_without_end(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_cell(runs, "bn", 0.0, {12: 0.5})
    at = [os.open(runs, os.O_RDONLY)]
    try:
        for _ in range(5000):  # a path of them all would be too long
            os.mkdir("d", dir_fd=at[-1])
            at.append(os.open("d", os.O_RDONLY, dir_fd=at[-1]))
            os.close(at.pop(-2))
        assert run_report(runs, "-o", tmp_path / "out", "--records", tmp_path / "records.zip") == 0
        with zipfile.ZipFile(tmp_path / "records.zip") as archive:
            assert len(archive.namelist()) == 2
    finally:
        os.close(at.pop())
        while (runs / "d").exists():  # from above, in pieces, since shutil would call itself as often
            subprocess.run(["rm", "-rf", str(runs / "d")], check=True)


VALUES = (None, True, 0, -1, 10**12, 10**400, 0.5, 1e308, "", "x", f"../a\nb{RTL}")
MORE_VALUES = ("`", "\ud800", "x" * 10_000, [], [1], {}, {"a": 1})


def put(settings: dict, key: str, value: object) -> dict:
    copy = json.loads(json.dumps(settings))
    *above, last = key.split(".")
    block = copy
    for part in above:
        block = block.setdefault(part, {}) if isinstance(block.get(part, {}), dict) else block
    block[last] = value
    return copy


def test_74_any_value_at_any_key_costs_no_more_than_its_run(tmp_path: Path) -> None:
    """All at once, and each text of the report is made; pictures of some are in the tests below."""
    write_cell(tmp_path, "bn", 0.0, {1: 0.5})
    plain = config("cifar10_bn_0noise", "bn", 0.0, 1, 2)
    keys = {*(setting.key for setting in SETTINGS), *plain, "arch.args", "data_loader.args.data_dir", "odd.key"}
    count = 0
    for key in sorted(keys):
        for value in (*VALUES, *MORE_VALUES):
            count += 1
            write_run(tmp_path / f"odd{count}", put(plain, key, value), {"test_accuracy": [0.25, 0.5]})
    results = read_results([tmp_path])
    assert [run for run in results.finished if run.folder == "cifar10_bn_0noise/seed1"] or any(
        "runs of cifar10" in warning for warning in results.warnings
    )
    left_out = [warning for warning in results.warnings if "is left out" in warning]
    assert 100 < len(left_out) < count
    shown = text_of(tmp_path)
    assert "\x1b" not in shown
    assert RTL not in shown


def text_of(folder: Path) -> str:
    return markdown(document(read_results([folder])), "results")


@pytest.mark.pictures
def test_74_odd_names_in_pictures_and_of_files(tmp_path: Path) -> None:
    for number, (key, value) in enumerate(
        [
            *(("name", f"../$x_$\n{RTL}$_bn_0noise"), ("name", "x" * 240 + "_bn_0noise")),
            *(("arch.args.norm", "_a$b$"), ("arch.args.norm", "`\\frac{"), ("seed", 10**400)),
            *(("trainer.epochs", 10**12), ("label_noise.rate", 1e-300)),
        ]
    ):
        settings = put(config("y_bn_0noise", "bn", 0.0, 2, 2), key, value)
        write_run(tmp_path / "runs" / str(number), settings, {"test_accuracy": [1, 0]})
    assert run_report(tmp_path / "runs", "-o", tmp_path / "out") == 0
    assert {path.parent for path in (tmp_path / "out").rglob("*.*")} == {tmp_path / "out", tmp_path / "out" / "results"}
    assert "could not be drawn" not in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in ("data.json", "diverged.json") for text in ("[]", "1e999", f"{10**400}", "[" * 999)),
        *(("data.json", json.dumps({"images": dict.fromkeys(("train", "val", "test"), n)})) for n in (True, 10**400)),
        ("data.json", '{"images": {"train": 5, "val": 5, "test": 5}, "wrong_labels": {"train": 6}}'),
        *(("diverged.json", json.dumps({"epoch": epoch})) for epoch in (True, 10**400, 1.5, "1")),
        *(("diagnostics.csv", f"{e},{v}") for e, v in (("1", "1e308"), ("1e308", "1"), ("nan", "1"), ("1.5", "1"))),
    ],
)
def test_74_odd_files_beside_a_run(tmp_path: Path, name: str, text: str) -> None:
    write_cell(tmp_path, "bn", 0.2, {1: 0.5})
    if name == "diagnostics.csv":
        epoch, value = text.split(",")
        figures = "largest_singular_value,smallest_singular_value,gradient_norm,weight_norm"
        text = f"epoch,layer,{figures}\n{epoch},a,{value},{value},{value},{value}\n"
    (tmp_path / "cifar10_bn_20noise" / "seed1" / name).write_text(text)
    assert "cifar10" in text_of(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        *({"noise": value} for value in (10**400, 1e308, -1, True, "1", None, [])),
        *({"seed": value} for value in (10**400, 1.5, "1", None, True)),
        *({"dataset": value} for value in (1, ["a"], "", None, "x" * 5000)),
        {"folder": 3},
    ],
)
def test_74_an_odd_grid(tmp_path: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(tmp_path, "bn", 0.0, {1: 0.5})
    cell = {"dataset": "cifar10", "arm": "bn", "noise": 0, "seed": 1, "folder": "x", **change}
    (tmp_path / "grid.json").write_text(json.dumps({"cells": [cell]}))
    assert run_report(tmp_path, "-o", tmp_path / "out") == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert next(iter(change)) in said


@pytest.mark.pictures
def test_74_huge_figures_in_metrics(tmp_path: Path) -> None:
    columns = {"test_accuracy": [0.25, 0.5], "train_loss": [1e38, 3e38], "lr": [1e38, 1e-300], "more": [1e308, -1e308]}
    write_run(tmp_path / "large", config("x_bn_0noise", "bn", 0.0, 1, 2), columns)
    write_run(tmp_path / "over", config("x_bn_0noise", "bn", 0.0, 2, 2), {**columns, "val_loss": [1, 1e308]})
    warned: list[str] = []
    results = read_results([tmp_path])
    report_files(results, warned.append)
    assert [run.folder for run in results.finished] == ["large"]
    assert warned == []


def test_74_runs_that_are_no_grid_take_bounded_time(tmp_path: Path) -> None:
    for number in range(30):
        settings = config("x", f"arm{number}", number / 30, number, 1)
        write_run(tmp_path / str(number), settings, {"test_accuracy": [0.5]})
    results = read_results([tmp_path])
    assert results.missing == ()
    assert any("too unlike" in warning for warning in results.warnings)
    assert MOST_PANELS < 1000


@pytest.mark.parametrize("name", ["zip_lzma.bin", "zip_not_implemented.bin", "zip_unicode.bin", "records_oserror.bin"])
def test_74_damaged_zips_of_records(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = ROOT / "tests" / "data" / "zips" / name
    assert run_report(source, "-o", tmp_path / "out") == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert name in said


def test_75_byte_order_marks(tmp_path: Path) -> None:
    write_cell(tmp_path, "bn", 0.2, {1: 0.5})
    folder = tmp_path / "cifar10_bn_20noise" / "seed1"
    figures = "largest_singular_value,smallest_singular_value,gradient_norm,weight_norm"
    (folder / "diagnostics.csv").write_text(f"epoch,layer,{figures}\n4,a,2,1,1,1\n")
    sizes = {"train": 100, "val": 10, "test": 10}
    (folder / "data.json").write_text(json.dumps({"images": sizes, "wrong_labels": {"train": 18}}))
    before = text_of(tmp_path)
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert text_of(tmp_path) == before
    assert read_metrics(folder / METRICS)["epoch"] == (1, 2, 3, 4)
