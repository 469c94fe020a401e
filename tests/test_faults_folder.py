"""Files of ours in folders that are received, copied, moved and shared. The numbers are those of docs/faults.md."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import grid as grid_program
import prepare_data
from grids.plan import load_grid
from grids.progress import standing
from parse_config import load_config
from tests.conftest import ROOT, write_image_folder
from tests.runs import SMALL, Started, call, coco, contents, evaluate, launch, one_line, rows, run, same_run
from tests.test_grid import settings, write_grid
from trainer.checkpoint import read
from trainer.identity import note_save
from trainer.run_folder import newest_run
from utils.errors import FileSystemError
from utils.files import write_atomically
from utils.folder import Folder
from utils.lock import FolderLock
from utils.owner import Owner

DATA = ROOT / "tests" / "data"
MINE = b"what the user wrote\n"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def refused(code: int, capsys: pytest.CaptureFixture, ended: int, *parts: object) -> None:
    error = capsys.readouterr().err
    assert ended == code, error
    assert error.count("\n") == 1, error
    for part in parts:
        assert str(part) in error


# --- 40: links -----------------------------------------------------------------------------------------------------

NAMES = ("run.json", "config.json", "metrics.csv", "train.log", ".lock", "noise.npz", "checkpoint-epoch3.pth")


@pytest.mark.parametrize("name", NAMES)
def test_40_a_link_in_a_run_folder(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    target = tmp_path / "mine"
    target.write_bytes((copy / name).read_bytes() or MINE)
    (copy / name).unlink()
    (copy / name).symlink_to(target)
    before, there = target.read_bytes(), contents(copy)
    for arguments in (["-r", "auto", "--run-dir", copy], ["-r", copy / "checkpoint-epoch3.pth", "trainer.epochs=4"]):
        refused(5, capsys, run(*arguments), copy / name, "is a link")
        assert target.read_bytes() == before
        assert contents(copy) == there


@pytest.mark.parametrize("name", ["train.log", ".lock", "metrics.csv"])
def test_40_a_link_in_a_folder_for_a_new_run(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    target, folder = tmp_path / "mine", tmp_path / "run"
    target.write_bytes(MINE)
    folder.mkdir()
    (folder / name).symlink_to(target)
    refused(5, capsys, run(*coco(coco_dir, folder)), folder / name, "is a link")
    assert target.read_bytes() == MINE
    assert os.listdir(folder) == [name]


def test_40_a_pipe_is_not_waited_for(copy: Path, capsys: pytest.CaptureFixture) -> None:
    (copy / "train.log").unlink()
    os.mkfifo(copy / "train.log")
    refused(5, capsys, run("-r", "auto", "--run-dir", copy), copy / "train.log", "is no regular file")


def test_40_another_name_of_a_file_keeps_what_it_has(copy: Path, tmp_path: Path) -> None:
    for name in ("train.log", ".lock", "metrics.csv"):
        (copy / name).unlink()
        (tmp_path / name).write_bytes(MINE)
        os.link(tmp_path / name, copy / name)
    assert run("-r", "auto", "--run-dir", copy) == 0
    assert all((tmp_path / name).read_bytes() == MINE for name in ("train.log", ".lock", "metrics.csv"))
    assert (copy / "train.log").read_bytes().startswith(MINE)


@pytest.mark.parametrize(
    "name", ["logs", ".lock", "grid.json", "logs/coco_bn_20noise-seed1.log", "coco_bn_20noise/seed1"]
)
def test_40_a_link_in_a_grid_s_folder(coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    grid = load_grid(path := write_grid(tmp_path, coco_dir, arms=["bn"], seeds=[1]))
    target = tmp_path / "mine"
    is_folder = name in ("logs", "coco_bn_20noise/seed1")
    if is_folder:
        target.mkdir()
    else:
        target.write_bytes(MINE)
    (grid.folder / name).parent.mkdir(parents=True)
    (grid.folder / name).symlink_to(target)
    refused(5, capsys, grid_program.main([str(path)]), grid.folder / name, "is a link")
    assert os.listdir(target) == [] if is_folder else target.read_bytes() == MINE


def test_40_a_link_where_a_dataset_file_goes_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = write_image_folder(tmp_path / "in", each=2), tmp_path / "out.npz"
    for path in (out, tmp_path / "out.npz.manifest.json"):
        (tmp_path / f"mine {path.name}").write_bytes(MINE)
        path.symlink_to(tmp_path / f"mine {path.name}")
    arguments = ["folder", str(source), "-o", str(out)]
    refused(5, capsys, prepare_data.main(arguments), out, "exists")
    assert prepare_data.main([*arguments, "--force"]) == 0
    for path in (out, tmp_path / "out.npz.manifest.json"):
        assert not path.is_symlink()
        assert (tmp_path / f"mine {path.name}").read_bytes() == MINE


# --- 41: what is a run ---------------------------------------------------------------------------------------------

OTHERS = {
    "config.json": b'{"version": 3, "plugins": []}\n',
    "data.json": b'{"data": [1, 2, 3]}\n',
    "metrics.csv": b"time,cpu\n0,99\n",
    "run.json": b'{"run": "make"}\n',
}


def test_41_a_checkpoint_beside_another_program_s_files(finished: Path, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name in ("x.pth", "checkpoint-epoch3.pth"):
        shutil.copy(finished / "checkpoint-epoch3.pth", downloads / name)
    for name, data in OTHERS.items():
        (downloads / name).write_bytes(data)
    before = contents(downloads)
    for number, name in enumerate(("x.pth", "checkpoint-epoch3.pth"), 1):
        assert run("-r", downloads / name, f"trainer.save_dir={tmp_path}/saved") == 0
        assert contents(downloads) == before
        assert len(list((tmp_path / "saved" / "coco_bn_20noise").iterdir())) == number


@pytest.mark.parametrize("name", ["config.json", "mine.json"])
@pytest.mark.parametrize("resolved", [True, False])
@pytest.mark.parametrize("more", [[], ["-r", "auto"]], ids=["new", "auto"])
def test_41_a_config_in_the_folder_for_the_run(
    finished: Path, coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, resolved: bool, more: list
) -> None:
    folder = tmp_path / "exp"
    folder.mkdir()
    base = {"_base_": str(ROOT / "configs" / "coco_bn_20noise.json"), "name": "mine"}
    text = (finished / "config.json").read_text() if resolved else json.dumps(base)
    (folder / name).write_text(text)
    arguments = [*SMALL, f"data_loader.args.data_dir={coco_dir}", "trainer.epochs=1"]
    ended = run("-c", folder / name, "--run-dir", folder, *more, *arguments)
    refused(5, capsys, ended, f"{folder} holds what is not a run's ({name})")
    assert contents(folder) == {name: text.encode()}


@pytest.mark.parametrize("name", ["metrics.csv", "data.json", "noise.npz", "weights.pth", "notes.txt", "sub"])
def test_41_other_files_in_the_folder_for_the_run(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    folder = tmp_path / "exp"
    folder.mkdir()
    if name == "sub":
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(MINE)
    refused(5, capsys, run(*coco(coco_dir, folder)), f"({name})")
    assert os.listdir(folder) == [name]


def test_41_the_output_of_the_run_itself_may_lie_in_its_folder(coco_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = Started(coco(coco_dir, folder, "trainer.epochs=1"), folder).end()  # stdout.txt and stderr.txt are there
    assert (ended.code, ended.err) == (0, "")


def test_41_an_older_run_is_known_by_what_it_wrote(finished: Path, copy: Path) -> None:
    (copy / "run.json").unlink()
    assert run("-r", "auto", "--run-dir", copy, "trainer.epochs=4") == 0
    assert [row["epoch"] for row in rows(copy)] == ["1", "2", "3", "4"]
    assert json.loads((copy / "run.json").read_text())["folder"] == "run"


def test_41_other_files_under_a_run_s_names_are_set_aside(copy: Path, capsys: pytest.CaptureFixture) -> None:
    for name in OTHERS:
        (copy / name).write_bytes(OTHERS[name])
    for turn in ("aside", "aside-2"):
        assert run("-r", copy / "checkpoint-epoch3.pth", "trainer.epochs=3") == 0, capsys.readouterr().err
        assert (copy / f"metrics.csv.{turn}").read_bytes() == OTHERS["metrics.csv"]
        assert (copy / "config.json.aside").read_bytes() == OTHERS["config.json"]
        (copy / "metrics.csv").write_bytes(OTHERS["metrics.csv"])


def test_41_a_test_s_figures_replace_no_others(copy: Path, tmp_path: Path) -> None:
    name = "model_best-test.json"
    (copy / name).write_bytes(MINE)
    one_line(evaluate(tmp_path, "-r", copy / "model_best.pth"), 5, f"{copy / name} is not of test.py")
    assert (copy / name).read_bytes() == MINE
    (copy / name).unlink()
    for _ in range(2):
        assert evaluate(tmp_path, "-r", copy / "model_best.pth").code == 0


@pytest.mark.parametrize(
    ("program", "name", "options"),
    [("test.py", "model_best-test.json", ()), ("export.py", "x.safetensors", ("--safetensors",))],
)
def test_41_a_large_file_of_the_user_s_is_not_read(copy: Path, program: str, name: str, options: tuple) -> None:
    with open(copy / name, "wb") as file:
        file.truncate(1 << 28)
    tracemalloc.start()
    ended = call(program, "-r", copy / "model_best.pth", *options, *(copy / name for _ in options))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one_line(ended, 5, str(copy / name))
    assert peak < 1 << 27


def test_41_a_grid_file_in_the_grid_s_folder(coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "saved" / "tiny"
    folder.mkdir(parents=True)
    path = write_grid(tmp_path, coco_dir).rename(folder / "grid.json")
    before = path.read_bytes()
    refused(5, capsys, grid_program.main([str(path)]), path, "is not the record of a grid")
    assert path.read_bytes() == before


# --- 42: tables are results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished_epochs", [3, 9], ids=["finished", "begun"])
def test_42_tables_without_checkpoints(
    coco_dir: Path, copy: Path, capsys: pytest.CaptureFixture, finished_epochs: int
) -> None:
    for path in copy.glob("*.pth"):
        path.unlink()
    before = contents(copy, "*.csv")
    other = (f"trainer.epochs={finished_epochs}", "optimizer.args.lr=0.5")
    for arguments in (
        ["-r", "auto", "--run-dir", copy],
        coco(coco_dir, copy, *other),
        [*coco(coco_dir, copy, *other), "-r", "auto"],
    ):
        refused(4, capsys, run(*arguments), copy, "metrics.csv", "move the folder away")
        assert contents(copy, "*.csv") == before


def test_42_tables_of_a_run_that_ended_between_two_checkpoints(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The last epoch is always saved, whatever the period, so these are results; a period given now changes nothing."""
    folder, rare = tmp_path / "run", "trainer.save_period=9"
    assert run(*coco(coco_dir, folder, "trainer.epochs=2", rare, "trainer.monitor=off")) == 0
    for path in folder.glob("*.pth"):
        path.unlink()
    before = contents(folder, "*.csv")
    for more in ([], ["trainer.epochs=20"], [rare, "trainer.epochs=1"]):
        refused(4, capsys, run("-r", "auto", "--run-dir", folder, *more), folder, "metrics.csv", "move the folder away")
    assert contents(folder, "*.csv") == before


def test_42_only_the_best_checkpoint_is_left(copy: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copy(copy / "checkpoint-epoch2.pth", copy / "model_best.pth")
    for path in copy.glob("checkpoint*.pth"):
        path.unlink()
    before = (copy / "metrics.csv").read_bytes()
    refused(4, capsys, run("-r", "auto", "--run-dir", copy), "only model_best.pth is left, after epoch 2")
    assert (copy / "metrics.csv").read_bytes() == before
    assert run("-r", copy / "model_best.pth", "trainer.epochs=2") == 0
    assert (copy / "metrics.csv.abandoned").read_bytes() == before


@pytest.mark.parametrize("monitor", ["off", "max train_loss"])
def test_42_rows_before_the_first_checkpoint_are_made_again(coco_dir: Path, tmp_path: Path, monitor: str) -> None:
    """A run that is killed before its first checkpoint has rows, and perhaps the best one."""
    options = (f"trainer.monitor={monitor}", "trainer.save_period=4", "trainer.epochs=5")
    assert run(*coco(coco_dir, tmp_path / "straight", *options)) == 0
    if monitor != "off":
        assert read(tmp_path / "straight" / "model_best.pth")["epoch"] == 1
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "straight", killed)
    for path in killed.glob("checkpoint-*.pth"):
        path.unlink()
    lines = (killed / "metrics.csv").read_text().splitlines(keepends=True)
    (killed / "metrics.csv").write_text("".join(lines[:4]))
    before = (killed / "metrics.csv").read_bytes()
    assert run(*coco(coco_dir, killed, *options), "-r", "auto") == 0
    assert (killed / "metrics.csv.abandoned").read_bytes() == before
    assert [row | {"seconds": ""} for row in rows(killed)] == [
        row | {"seconds": ""} for row in rows(tmp_path / "straight")
    ]


def test_42_an_old_checkpoint_beside_a_long_table(copy: Path, capsys: pytest.CaptureFixture) -> None:
    table = copy / "metrics.csv"
    last = table.read_text().splitlines()[-1].partition(",")[2]
    table.write_text(table.read_text() + "".join(f"{epoch},{last}\n" for epoch in range(4, 9)))
    before = table.read_bytes()
    assert run("-r", "auto", "--run-dir", copy) == 0
    assert "going back to epoch 3; the table of later epochs is now" in capsys.readouterr().err
    assert (copy / "metrics.csv.abandoned").read_bytes() == before


def test_42_a_finished_cell_stays_finished(coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_grid(tmp_path, coco_dir, arms=["bn"], seeds=[1], settings=settings(coco_dir) | {"trainer.epochs": 1})
    (cell,) = load_grid(path).cells
    assert run("-c", cell.base, "--run-dir", cell.folder, *cell.overrides) == 0
    for file in cell.folder.glob("*.pth"):
        file.unlink()
    before = contents(cell.folder)
    assert standing(cell).finished
    assert grid_program.main([str(path)]) == 0
    assert contents(cell.folder) == before


# --- 44: which run is the newest -----------------------------------------------------------------------------------


def config_of(finished: Path, tmp_path: Path):
    return load_config(finished / "config.json", [f"trainer.save_dir={tmp_path}"])


def a_run(finished: Path, folder: Path, ago: timedelta, **changes: object) -> Path:
    """A finished run that says it was last saved so long ago."""
    shutil.copytree(finished, folder)
    said = {"program": "train.py", "run": os.urandom(16).hex(), "folder": folder.name}
    said["saved"] = (datetime.now(UTC) - ago).isoformat()
    (folder / "run.json").write_text(json.dumps(said | changes))
    return folder


def test_44_the_newest_is_the_one_saved_last(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    place = tmp_path / "coco_bn_20noise"
    newer = a_run(finished, place / "20200101_000000", timedelta(hours=1))
    a_run(finished, place / "20400101_000000", timedelta(hours=2))  # named by a clock that was ahead
    a_run(finished, place / "by hand", timedelta(days=2))
    assert newest_run(config_of(finished, tmp_path)) == newer
    assert capsys.readouterr().err == ""


def test_44_a_save_in_the_future_is_told_and_counts_as_old(finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "coco_bn_20noise"
    now = a_run(finished, place / "20200101_000000", timedelta(hours=1))
    a_run(finished, place / "20400101_000000", -timedelta(days=999))
    options = ("-c", finished / "config.json", "-r", "auto", f"trainer.save_dir={tmp_path}")
    ended = launch(tmp_path, *options)
    one_line(ended, 0, "20400101_000000 was saved at a time that has not come yet", f"going on with {now}")


@pytest.mark.parametrize("seconds", [10**12, -(10**12)])
def test_44_a_file_s_time_of_no_year_counts_as_old(finished: Path, tmp_path: Path, seconds: int) -> None:
    place = tmp_path / "coco_bn_20noise"
    now = a_run(finished, place / "20200101_000000", timedelta(hours=1))
    odd = a_run(finished, place / "20200101_000001", timedelta(hours=1))
    (odd / "run.json").unlink()
    for path in odd.iterdir():
        os.utime(path, (seconds, seconds))  # a file system may cut it to a time that it knows
    assert newest_run(config_of(finished, tmp_path)) == now


@pytest.mark.parametrize("older", [False, True], ids=["now", "older"])
def test_44_a_copy_is_passed_over(finished: Path, tmp_path: Path, older: bool) -> None:
    """Of a run made before run.json was, the copy is known by its name and its figures."""
    original = a_run(finished, tmp_path / "coco_bn_20noise" / "20200101_000000", timedelta(hours=1))
    if older:
        (original / "run.json").unlink()
    backup = shutil.copytree(original, original.with_name("20200101_000000_backup"), copy_function=shutil.copy)
    (backup / "metrics.csv").touch()
    before = contents(backup)
    options = ("-c", finished / "config.json", "-r", "auto", f"trainer.save_dir={tmp_path}", "trainer.epochs=4")
    ended = launch(tmp_path, *options)
    one_line(ended, 0, f"{backup.name} is a copy of {original.name}; going on with {original}")
    assert contents(backup) == before
    assert len(rows(original)) == 4


def test_44_a_copy_that_is_named_goes_on_as_a_run_of_its_own(finished: Path, tmp_path: Path) -> None:
    original = a_run(finished, tmp_path / "coco_bn_20noise" / "20200101_000000", timedelta(hours=1))
    backup = shutil.copytree(original, original.with_name("backup"))
    ended = launch(tmp_path, "-r", "auto", "--run-dir", backup, "trainer.epochs=4")
    one_line(ended, 0, f"{backup} is a copy of {original}")
    keys = [json.loads((folder / "run.json").read_text())["run"] for folder in (original, backup)]
    assert keys[0] != keys[1]
    moved = backup.rename(tmp_path / "coco_bn_20noise" / "moved")
    assert launch(tmp_path, "-r", "auto", "--run-dir", moved).err == ""  # renamed is not copied


def test_44_stamps_and_saves_are_in_utc(coco_dir: Path, tmp_path: Path) -> None:
    arguments = coco(coco_dir, tmp_path, f"trainer.save_dir={tmp_path}", "trainer.epochs=1")
    del arguments[2:4]  # no --run-dir
    assert launch(tmp_path, *arguments, prepare=[_in_tokyo]).code == 0
    (folder,) = (tmp_path / "coco_bn_20noise").iterdir()
    named = datetime.strptime(folder.name, "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    saved = datetime.fromisoformat(json.loads((folder / "run.json").read_text())["saved"])
    for when in (named, saved):
        assert abs(datetime.now(UTC) - when) < timedelta(minutes=30)


def _in_tokyo() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


@pytest.mark.parametrize("text", [None, "{"], ids=["gone", "damaged"])
def test_44_a_save_beside_an_identity_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    before = contents(tmp_path)
    note_save(Folder(tmp_path))
    assert contents(tmp_path) == before


# --- 45: another folder in its place -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["empty", "a link", *(pytest.param(place, marks=pytest.mark.slow) for place in ("a run", "none"))]
)
def test_45_another_folder_in_its_place(finished: Path, coco_dir: Path, tmp_path: Path, place: str) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"
    options = ("trainer.epochs=500", "lr_scheduler.args.milestones=[400]")
    started = Started(coco(coco_dir, folder, *options), tmp_path / "process")
    started.until(lambda: (folder / "checkpoint-epoch1.pth").exists())
    folder.rename(moved)
    (tmp_path / "theirs").mkdir()
    if place == "empty":
        folder.mkdir()
    elif place == "a run":
        shutil.copytree(finished, folder)
    elif place == "a link":
        folder.symlink_to(tmp_path / "theirs")
    before = contents(folder) if folder.exists() else {}
    ended = started.end()
    assert ended.code == 5, ended.err
    of_it = rf"{re.escape(str(folder))}(/train|/val|/test)? is not the folder that this process works in any more"
    assert re.search(of_it, ended.err.splitlines()[-1])
    assert (contents(folder) if folder.exists() else {}) == before
    assert not os.listdir(tmp_path / "theirs")
    for path in moved.glob("*.pth"):
        read(path)
    assert not list(moved.glob(".*.tmp"))


# --- 46: no locks --------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from utils.lock import FolderLock
with FolderLock() as lock:
    try:
        lock.acquire(Path(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"{error.exit_code}: {error}")
    print("held", flush=True)
    sys.stdin.read()
    lock.folder.write("written", b"x")
"""


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """The environment of a process in which these C functions stand before the system's."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler, or no LD_PRELOAD")
    place = tmp_path_factory.mktemp("preload")

    def environment(*names: str) -> dict[str, str]:
        for name in names:
            argv = [compiler, "-shared", "-fPIC", "-o", place / f"{name}.so", DATA / f"{name}.c", "-ldl"]
            subprocess.run(argv, check=True)
        libraries = ":".join(str(place / f"{name}.so") for name in names)
        return {**os.environ, "LD_PRELOAD": libraries, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    return environment


def hold(folder: Path, environment: dict[str, str], before: str = "") -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", before + HOLD, str(folder)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(argv, env=environment, text=True, cwd=ROOT, **pipes)


def test_46_no_locks_and_a_live_process(preload: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    environment = preload("noflock")
    first = hold(tmp_path, environment)
    assert first.stdout.readline() == "held\n"
    second = hold(tmp_path, environment)
    _, error = second.communicate(timeout=60)
    assert (second.returncode, error.count("\n")) == (1, 1)
    assert error.startswith(f"5: {tmp_path} is in use by pid {first.pid} on ")
    with pytest.raises(FileSystemError, match=f"is in use by pid {first.pid}"), FolderLock() as lock:
        lock.acquire(tmp_path)  # one that does have locks heeds it as well
    _, error = first.communicate(timeout=60)
    assert first.returncode == 0
    assert error == f"no file is locked in {tmp_path} (No locks available); .owner there says who writes it\n"
    assert set(os.listdir(tmp_path)) == {".lock", "written"}


def test_46_no_locks_and_a_dead_process(preload: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    environment = preload("noflock")
    first = hold(tmp_path, environment)
    assert first.stdout.readline() == "held\n"
    first.kill()
    first.communicate()
    with FolderLock() as lock:
        lock.acquire(tmp_path)
        assert lock.left_by == f"pid {first.pid} on {os.uname().nodename}"
    second = hold(tmp_path, environment)
    assert second.stdout.readline() == "held\n"
    second.communicate(timeout=60)
    assert second.returncode == 0


ELSEWHERE = """
import time, utils.owner, utils.process
now = time.time
time.time = lambda: now() - 1e6  # its clock is days behind
utils.owner.machine = utils.process.machine = lambda: "another"
utils.owner.BEAT = 0.1
"""


@pytest.mark.parametrize("alive", [True, False], ids=["fresh", "silent"])
def test_46_no_locks_and_a_process_of_another_machine(
    preload: Callable[..., dict[str, str]], tmp_path: Path, alive: bool
) -> None:
    """It is judged by what it does, not by its clock."""
    environment = preload("noflock")
    first = hold(tmp_path, environment, ELSEWHERE)
    assert first.stdout.readline() == "held\n"
    if not alive:
        first.send_signal(signal.SIGSTOP)
    second = hold(tmp_path, environment, "import utils.owner; utils.owner.PATIENCE = 1.0")
    if alive:
        _, error = second.communicate(timeout=60)
        watching, ended = error.splitlines()
        assert watching.startswith(f"watching for 1 s whether pid {first.pid} on ")
        assert ended.startswith(f"5: {tmp_path} is in use by pid {first.pid} on ")
    else:
        assert second.stdout.readline() == "held\n"
        first.send_signal(signal.SIGCONT)
        _, error = first.communicate(timeout=60)  # it comes back, and finds that it was taken for dead
        assert f"taken over by pid {second.pid}" in error
        assert not (tmp_path / "written").exists()
        second.communicate(timeout=60)
    assert second.returncode == alive
    first.kill()
    first.communicate()


def test_46_a_dead_process_s_file_goes_where_there_are_locks(tmp_path: Path) -> None:
    """Otherwise each later run would watch it again."""
    with Folder(tmp_path) as folder:
        owner = Owner(folder)
        owner.take()
        said = (tmp_path / ".owner").read_bytes().replace(b'"born": "', b'"born": "1')
        (tmp_path / ".owner").write_bytes(said)
        with FolderLock() as lock:
            lock.acquire(tmp_path)
        assert set(os.listdir(tmp_path)) == {".lock"}
        owner.give_back()


# --- 47: set aside -------------------------------------------------------------------------------------------------


def test_47_what_was_set_aside_stays(copy: Path) -> None:
    kept = [(copy / "checkpoint-epoch3.pth").read_bytes()]
    for number in (1, 2, 3):
        assert run("-r", copy / "checkpoint-epoch2.pth", "trainer.epochs=2") == 0
        names = ["checkpoint-epoch3.pth.abandoned", *(f"checkpoint-epoch3.pth.abandoned-{n}" for n in (2, 3))]
        assert [(copy / name).read_bytes() for name in names[:number]] == kept
        kept.append(kept[-1] + bytes(number))
        (copy / "checkpoint-epoch3.pth").write_bytes(kept[-1])


# --- 66, 69, 75: what a system may lack ----------------------------------------------------------------------------


@pytest.mark.slow
def test_46_66_a_run_where_nothing_can_be_locked_and_no_folder_synced(
    preload: Callable[..., dict[str, str]], finished: Path, coco_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    argv = [sys.executable, "train.py", *coco(coco_dir, folder)]
    environment = preload("noflock", "nodirsync")
    ended = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines() == [
        f"WARNING: no file is locked in {folder} (No locks available); .owner there says who writes it",
        f"WARNING: the folder {folder} cannot be synced (Invalid argument); its files are, and the work goes on",
    ]
    same_run(folder, finished, 3)
    assert not (folder / ".owner").exists()


def _fail_folder_syncs(number: int) -> None:
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    os.fsync = failing


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.EBADF], ids=errno.errorcode.get)
def test_66_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("utils.once._told", told := set())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", os.fsync)
        _fail_folder_syncs(number)
        with Folder(tmp_path) as folder:
            folder.write("a", b"data")
        write_atomically(tmp_path / "b", b"data")
    assert contents(tmp_path) == {"a": b"data", "b": b"data"}
    assert told == {"sync"}


def _no_threads() -> None:
    """As where the system's limit has been reached."""
    import threading

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = start


def test_75_no_thread_can_be_started(finished: Path, coco_dir: Path, tmp_path: Path) -> None:
    ended = launch(tmp_path, *coco(coco_dir, tmp_path / "run"), prepare=[_no_threads])
    assert (ended.code, ended.err) == (0, "")
    same_run(tmp_path / "run", finished, 3)


WINDOWS = """
import sys, runpy
import train
folder, arguments = sys.argv[1], sys.argv[2:]
assert train.main([*arguments, "trainer.epochs=1"]) == 0
assert train.main(["-r", "auto", "--run-dir", folder, "trainer.epochs=3"]) == 0
sys.argv = ["test.py", "-r", folder + "/model_best.pth"]
try:
    runpy.run_path("test.py", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
"""
OPEN = """
import sys
from pathlib import Path
from utils.lock import FolderLock
from utils.folder import Folder
with FolderLock() as lock:
    folder = lock.acquire(Path(sys.argv[1]))
    for action in (folder.append, folder.update, folder.write, lambda name: folder.read(name, 9)):
        try:
            action("link")
        except ValueError as error:
            assert "is a link" in str(error)
        else:
            raise AssertionError(action)
    folder.append("file").write(b"x")
"""


@pytest.fixture
def windows(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that lacks what Python on Windows lacks."""
    (tmp_path / "site").mkdir()
    shutil.copy(DATA / "windows.py", tmp_path / "site" / "sitecustomize.py")
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_69_without_what_windows_lacks(windows: dict[str, str], finished: Path, coco_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    argv = [sys.executable, "-c", WINDOWS, folder, *coco(coco_dir, folder)]
    ended = subprocess.run(argv, cwd=ROOT, env=windows, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [row["val_loss"] for row in rows(folder)] == [row["val_loss"] for row in rows(finished)]
    assert (folder / "model_best-test.json").exists()


def test_69_no_link_is_followed_without_descriptors(windows: dict[str, str], tmp_path: Path) -> None:
    target, folder = tmp_path / "mine", tmp_path / "folder"
    target.write_bytes(MINE)
    folder.mkdir()
    (folder / "link").symlink_to(target)
    argv = [sys.executable, "-c", OPEN, folder]
    ended = subprocess.run(argv, cwd=ROOT, env=windows, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "this system has no flock" in ended.stderr
    assert contents(folder) == {".lock": b"", "file": b"x", "link": MINE}
    assert target.read_bytes() == MINE


@pytest.mark.slow
def test_69_a_report_without_what_windows_lacks(windows: dict[str, str], finished: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "report.py", finished, "-o", tmp_path / "report"]
    ended = subprocess.run(argv, cwd=ROOT, env=windows, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "report" / "results.md").exists()


@pytest.mark.slow
def test_69_a_grid_without_what_windows_lacks(windows: dict[str, str], coco_dir: Path, tmp_path: Path) -> None:
    path = write_grid(tmp_path, coco_dir, seeds=[1])
    for more, said in (["--dry-run"], "0 of 2 runs finished"), (["--jobs", "2"], "2 of 2 runs finished"):
        argv = [sys.executable, "grid.py", path, *more]
        ended = subprocess.run(argv, cwd=ROOT, env=windows, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert said in ended.stdout
