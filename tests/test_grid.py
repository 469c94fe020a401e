"""Grids of real runs: planned, run, failed, killed and gone on with."""

import fcntl
import itertools
import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from pathlib import Path

import pytest

from grids.plan import Grid, load_grid
from grids.progress import FAILED, FINISHED, RUNNING, Progress, Standing, misfit, standing
from grids.running import command
from parse_config import Config, load_config
from tests.conftest import ROOT, program
from tests.runs import call, rows, run
from utils.errors import ConfigError
from utils.files import read_file
from utils.keys import short_names
from utils.lock import FolderLock

BN, COCO = {"arch.args.norm": "bn"}, {"config": str(ROOT / "configs" / "coco_bn_0noise.json")}
SHIPPED = sorted((ROOT / "configs" / "grids").glob("*.json"))


def settings(coco_dir: Path) -> dict[str, object]:
    return {
        "arch.args.width": 4,
        "data_loader.args.data_dir": str(coco_dir),
        "data_loader.args.batch_size": 20,
        "data_loader.args.subset": 50,
        "data_loader.args.validation_split": 0.18,
        "trainer.epochs": 2,
        "trainer.device": "cpu",
        "lr_scheduler.args.milestones": [1],
    }


def write_grid(tmp_path: Path, coco_dir: Path, **changes: object) -> Path:
    """Two arms, two seeds, two epochs of a shipped config, at a size that takes seconds."""
    values = {
        "name": "tiny",
        "config": str(ROOT / "configs" / "{dataset}_{arm}_{noise}noise.json"),
        "datasets": ["coco"],
        "arms": ["bn", "bncn"],
        "noise": [20],
        "seeds": [1, 2],
        "save_dir": str(tmp_path / "saved"),
        "settings": settings(coco_dir),
        "notes": ["These runs are small."],
    }
    path = tmp_path / "grid.json"
    path.write_text(json.dumps({**values, **changes}))
    return path


def figures(folder: Path) -> dict[str, list[str]]:
    """metrics.csv of every cell but for the seconds, which come last."""
    return {
        path.parent.relative_to(folder).as_posix(): [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
        for path in sorted(folder.rglob("metrics.csv"))
    }


# --- plans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_grids_are_what_they_say(path: Path) -> None:
    grid = load_grid(path)
    assert grid.name == path.stem
    assert len({cell.folder for cell in grid.cells}) == len(grid.cells)
    for cell in grid.cells:
        assert cell.config.arch.args.norm == cell.arm.removesuffix("_clipped")
        assert cell.config.label_noise.rate == cell.noise / 100
        assert cell.config.seed == cell.seed
        assert cell.config.name == f"{cell.dataset}_{cell.arm}_{cell.noise}noise"
        assert (cell.config.protocol == "as_published") == (path.stem == "as_published" or "published" in cell.dataset)
        clipped = cell.arm == "conv" or "_clipped" in cell.config.name
        assert (cell.config.trainer.clip_grad_norm is not None) == clipped


def test_the_paper_s_grid_is_the_shipped_configs() -> None:
    for cell in load_grid(ROOT / "configs" / "grids" / "paper.json").cells:
        shipped = load_config(ROOT / "configs" / f"{cell.config.name}.json", [f"seed={cell.seed}"])
        assert cell.config == shipped


def test_a_seed_s_cells_of_a_dataset_come_one_after_the_other(tmp_path: Path, coco_dir: Path) -> None:
    """So that an unfinished grid compares whole sets of arms."""
    grid = load_grid(write_grid(tmp_path, coco_dir, noise=[0, 20]))
    assert [(cell.seed, cell.noise, cell.arm) for cell in grid.cells] == [
        (seed, noise, arm) for seed in (1, 2) for noise in (0, 20) for arm in ("bn", "bncn")
    ]


def test_an_arm_may_have_a_name_of_its_own_and_a_dataset_arms_of_its_own() -> None:
    cells = load_grid(ROOT / "configs" / "grids" / "seeds.json").cells
    control = [cell for cell in cells if cell.arm == "bn_clipped"]
    assert len(control) == 28
    assert all(cell.folder.parent.name == f"{cell.dataset}_bn_clipped_{cell.noise}noise" for cell in control)
    arms: dict[str, set[str]] = {}
    for cell in load_grid(ROOT / "configs" / "grids" / "paper_coco.json").cells:
        arms.setdefault(cell.dataset, set()).add(cell.arm)
    assert arms == {
        "coco_full": {"bn", "conv", "bncn"},
        "coco_published_full": {"bn", "conv_published", "bncn_published"},
    }


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"arms_of": {"koko": ["bn"]}}, "arms_of.koko: not in the grid"),
        ({"by_arm": {"bn": {"label_noise.rate": 0.5}}}, "label_noise.rate cannot be among the settings"),
        ({"arm": ["bn"]}, "unknown key 'arm'; did you mean 'arms'?"),
        ({"arms": []}, "arms: List should have at least 1 item"),
        ({"arms": ["bx"]}, "cannot read the config"),
        ({"arms": ["bx"], "config": str(ROOT / "configs" / "demo.json")}, "arch.args.norm: unknown choice 'bx'"),
        ({"noise": [0.1]}, "noise.0"),
        ({"noise": [101]}, "noise.0"),
        ({"seeds": [1, 1]}, "name nothing twice"),
        ({"by_arm": {"conv": {}}}, "by_arm.conv: not in the grid, which has bn, bncn"),
        ({"settings": {"seed": 3}}, "seed cannot be among the settings"),
        ({"by_arm": {"bn": {"arch.args.norm": "gn"}}}, "arch.args.norm cannot be among the settings"),
        ({"settings": {"trainer": {"save_dir": "x"}}}, "trainer.save_dir cannot be among the settings"),
        ({"settings": {"trainer.epoch": 2}}, "grid.json: coco_bn_20noise: "),
        ({"settings": {"trainer.epoch": 2}}, "unknown key 'trainer.epoch'; did you mean 'epochs'?"),
        ({"config": "no/such/{dataset}.json"}, "cannot read the config"),
        ({"config": "{seed}.json"}, "only {dataset}, {arm} and {noise}"),
        ({"config": "{dataset.__class__}.json"}, "only {dataset}, {arm} and {noise}"),
        ({"name": "../up"}, "name: String should match pattern"),
        ({"sweep": {"optimizer.args.lr": []}}, "sweep.optimizer.args.lr: List should have at least 1 item"),
        ({"sweep": {"optimizer.args.lr": 0.1}}, "sweep.optimizer.args.lr: Input should be a valid list"),
        ({"sweep": {"optimizer.args.lr": [0.1, 1e-1]}}, "name nothing twice"),
        ({"sweep": {"optimizer.args.lr": [0.1, 0]}}, "coco_bn_20noise_lr0: "),
        ({"sweep": {"optimizer.args.rate": [0.1]}}, "unknown key 'optimizer.args.rate'"),
        ({"sweep": {"seed": [1, 2]}}, "seed cannot be among the settings"),
        (
            {"datasets": ["x", "x_bn"], "arms": ["a", "bn_a"], "by_arm": {"a": BN, "bn_a": BN}, **COCO},
            "2 of its runs have the name x_bn_a_20noise/seed1; name datasets or arms otherwise",
        ),
        ({"sweep": {"seed=3 x": [1]}}, "'seed=3 x' is no key of a setting"),
        ({"sweep": {key: [*range(1000)] for key in "abcd"}}, "4,000,000,000,000 runs, which are more than 10,000"),
    ],
)
def test_a_wrong_grid_is_one_line(tmp_path: Path, coco_dir: Path, changes: dict, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_grid(write_grid(tmp_path, coco_dir, **changes))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_is_a_run_for_each_combination_named_by_its_values(tmp_path: Path, coco_dir: Path) -> None:
    long = list(range(1, 40))
    sweep = {
        "optimizer.args.lr": [0.05, 1e-05],
        "lr_scheduler.args.milestones": [[1], [1, 2], long, [*long, 99]],
        "data_loader.args.data_dir": [str(coco_dir), "a/B", "a b"],  # of which two have one name
        "trainer.amp": [None, "bf16"],
    }
    grid = load_grid(write_grid(tmp_path, coco_dir, sweep=sweep, by_arm={"bn": {"optimizer": {"args": {"lr": 3.0}}}}))
    cells = [cell for cell in grid.cells if (cell.arm, cell.seed) == ("bn", 2)]
    assert [tuple(cell.point.values()) for cell in cells] == list(itertools.product(*sweep.values()))
    for cell in cells:
        assert {key: cell.config.settings()[key] for key in sweep} == cell.point
        assert cell.config == load_config(cell.base, cell.overrides)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,98}", cell.folder.parent.name)
        assert cell.name == cell.folder.relative_to(grid.folder).as_posix()
    assert len({cell.name.casefold() for cell in grid.cells}) == len(grid.cells) == 2 * 2 * 48
    few = load_grid(write_grid(tmp_path, coco_dir, sweep={"optimizer.args.lr": [0.05], "trainer.amp": [None, "bf16"]}))
    assert [cell.name for cell in few.cells][:2] == [
        "coco_bn_20noise_lr0.05_ampnull/seed1",
        "coco_bn_20noise_lr0.05_ampbf16/seed1",
    ]


def test_keys_of_a_sweep_are_told_apart() -> None:
    keys = ["optimizer.type", "lr_scheduler.type", "seed", "optimizer.args.lr", "args.lr"]
    named = {"optimizer.type": "optimizer.type", "lr_scheduler.type": "lr_scheduler.type", "seed": "seed"}
    assert short_names(keys) == named | {"optimizer.args.lr": "optimizer.args.lr", "args.lr": "args.lr"}
    assert short_names(["optimizer.args.lr", "trainer.epochs"]) == {
        "optimizer.args.lr": "lr",
        "trainer.epochs": "epochs",
    }


@pytest.mark.slow
def test_the_paper_s_search_runs_and_its_report_marks_the_choice(tmp_path: Path, coco_dir: Path) -> None:
    """configs/grids/coco_lr.json, at a size that takes seconds, each cell by the command of its process."""
    shipped = json.loads((ROOT / "configs" / "grids" / "coco_lr.json").read_text())
    assert shipped["sweep"] == {"optimizer.args.lr": [0.1, 0.05, 0.025, 0.01]}
    small = settings(coco_dir) | {"trainer.epochs": 1, "trainer.tensorboard": False}
    smaller = {
        "arms": ["bn"],
        "seeds": [1],
        "settings": small,
        "config": str(ROOT / "configs" / Path(shipped["config"]).name),
    }
    path = write_grid(tmp_path, coco_dir, **shipped | smaller)
    best = {}
    for cell in load_grid(path).cells:
        assert run(*command(cell)[2:]) == 0
        best[cell.point["optimizer.args.lr"]] = float(rows(cell.folder)[0]["val_accuracy"])
    ended = program("grid.py", str(path))
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "4 of 4 runs finished")
    assert call("report.py", tmp_path / "saved", "-o", tmp_path / "report").code == 0
    chosen = re.findall(r"\| bn \| 0 % \| lr=([0-9.]+) \(chosen\) \|", (tmp_path / "report" / "results.md").read_text())
    assert [best[float(rate)] for rate in chosen] == [max(best.values())]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name": "a", "name": "b"}', "\xff"])
def test_a_grid_that_is_no_object_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(ConfigError, match=r"grid\.json"):
        load_grid(path)
    with pytest.raises(ConfigError, match="cannot read the grid"):
        load_grid(tmp_path / "none.json")


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(coco_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a grid that has been run: each cell here, by the command that grid.py gives its process."""
    place = tmp_path_factory.mktemp("grid")
    path = write_grid(place, coco_dir, seeds=[1])
    for cell in load_grid(path).cells:
        assert run(*command(cell)[2:]) == 0
    ended = program("grid.py", str(path))
    assert ended.returncode == 0, ended.stderr
    assert "2 of 2 runs finished" in ended.stdout
    return place


def test_every_cell_is_an_ordinary_run_folder(done: Path, coco_dir: Path) -> None:
    grid = load_grid(done / "grid.json")
    for cell in grid.cells:
        assert standing(cell).finished
        assert misfit(cell) is None
        names = {path.name for path in cell.folder.iterdir()}
        assert {"config.json", "metrics.csv", "checkpoint-epoch2.pth", "model_best.pth", "noise.npz"} <= names
    record = json.loads((grid.folder / "grid.json").read_text())
    assert [grid.folder / cell["folder"] for cell in record["cells"]] == [cell.folder for cell in grid.cells]
    noise = [(cell.folder / "noise.npz").read_bytes() for cell in grid.cells]
    assert noise[0] == noise[1], "arms at one seed have the same wrong labels"


def test_a_finished_grid_runs_nothing_again(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "saved").rglob("*.pth")}
    ended = program("grid.py", str(done / "grid.json"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in (done / "saved").rglob("*.pth")} == before
    dry = program("grid.py", str(done / "grid.json"), "--dry-run")
    assert "train.py" not in dry.stdout


def test_a_dry_run_shows_the_commands_and_writes_nothing(tmp_path: Path, coco_dir: Path) -> None:
    ended = program("grid.py", str(write_grid(tmp_path, coco_dir)), "--dry-run")
    assert ended.returncode == 0
    assert "0 of 4 runs finished" in ended.stdout
    assert ended.stdout.count("train.py -c") == 4
    ended = program("grid.py", str(tmp_path / "grid.json"), "--dry-run", "-d", "cuda:0,")
    assert (ended.returncode, ended.stderr) == (2, "error: -d cuda:0,: a device is missing beside a comma\n")
    assert not (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_failed_cell_is_told_of_and_the_others_are_run(tmp_path: Path, coco_dir: Path) -> None:
    path = write_grid(tmp_path, coco_dir, seeds=[1], by_arm={"bn": {"optimizer.args.lr": 1e20}})
    ended = program("grid.py", str(path), "--jobs", "2")
    assert ended.returncode == 6
    assert ended.stderr.count("\n") == 1
    assert "1 of 2 runs failed: coco_bn_20noise/seed1; exit code 6: error: the loss became NaN" in ended.stderr
    assert "1 of 2 runs finished" in ended.stdout
    bn, bncn = load_grid(path).cells
    assert standing(bncn).finished
    assert not standing(bn).finished


def test_a_folder_with_a_run_of_other_settings_is_refused(done: Path, coco_dir: Path, tmp_path: Path) -> None:
    path = write_grid(
        tmp_path,
        coco_dir,
        seeds=[1],
        save_dir=str(done / "saved"),
        settings=settings(coco_dir) | {"optimizer.args.lr": 0.5},
    )
    ended = program("grid.py", str(path))
    assert ended.returncode == 2
    assert "2 of 2 runs failed" in ended.stderr
    assert "holds a run of other settings (optimizer.args.lr is 0.025 there, 0.5 here)" in ended.stderr
    assert "again" not in ended.stderr, "which would change nothing"
    dry = program("grid.py", str(path), "--dry-run")
    assert dry.returncode == 2
    assert dry.stderr == "error: 2 of 2 runs would be refused; the table says why\n"
    assert dry.stdout.count("holds a run of other settings") == 2
    assert "train.py" not in dry.stdout


def test_two_grids_in_one_folder(done: Path) -> None:
    with FolderLock() as lock:
        lock.acquire(done / "saved" / "tiny")
        ended = program("grid.py", str(done / "grid.json"))
    assert ended.returncode == 5
    assert f"in use by pid {os.getpid()}" in ended.stderr
    assert "give the grid another name" in ended.stderr
    assert "--run-dir" not in ended.stderr, "grid.py has no such option"


@pytest.mark.parametrize("text", ["x" * 200_000, "epoch,seconds\n1\n", "epoch,seconds\n1,\xff\n", "\0"])
def test_damaged_metrics_are_a_run_that_has_not_begun(tmp_path: Path, coco_dir: Path, text: str) -> None:
    cell = load_grid(write_grid(tmp_path, coco_dir)).cells[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "metrics.csv").write_bytes(text.encode("latin1"))
    assert standing(cell) == Standing(0, 2, 0.0, False)


def start(path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "grid.py", str(path), "--jobs", "2"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_grid_that_waits_for_a_run_of_another_process_can_be_stopped(tmp_path: Path, coco_dir: Path) -> None:
    path = write_grid(tmp_path, coco_dir)
    cell = load_grid(path).cells[0]
    cell.folder.mkdir(parents=True)
    with FolderLock() as lock:
        lock.acquire(cell.folder)
        running = start(path)
        until((tmp_path / "saved" / "tiny" / "grid.json").exists)
        running.send_signal(signal.SIGTERM)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == 143
    assert stderr == "stopped by SIGTERM; the same command goes on with the grid\n"


@pytest.mark.slow
def test_a_run_of_another_process_keeps_only_its_own_cell_waiting(tmp_path: Path, coco_dir: Path) -> None:
    path = write_grid(tmp_path, coco_dir, seeds=[1])
    held, other = load_grid(path).cells
    held.folder.mkdir(parents=True)
    with FolderLock() as lock:
        lock.acquire(held.folder)
        running = subprocess.Popen(
            [sys.executable, "grid.py", str(path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(lambda: standing(other).finished)
        assert running.poll() is None
    stdout, stderr = running.communicate(timeout=300)
    assert (running.returncode, stderr) == (0, "")
    assert standing(held).finished
    assert f"waiting: coco_bn_20noise/seed1, {held.folder.resolve()} is in use by pid {os.getpid()}" in stdout
    assert stdout.count("dataset") == 2, "on no terminal, the table is printed at the beginning and at the end"


def test_a_killed_run_is_told_apart_from_what_its_log_said_before(tmp_path: Path, coco_dir: Path) -> None:
    path = write_grid(tmp_path, coco_dir, seeds=[1], arms=["bn"], settings=settings(coco_dir) | {"trainer.epochs": 99})
    (cell,) = load_grid(path).cells
    log = tmp_path / "saved" / "tiny" / "logs" / "coco_bn_20noise-seed1.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: of another day\n")
    running = start(path)
    until(lambda: (cell.folder / ".lock").exists() and (cell.folder / ".lock").read_text().startswith("pid "))
    os.kill(int((cell.folder / ".lock").read_text().split()[1]), signal.SIGKILL)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 7
    assert f"killed by SIGKILL, as the system does when memory runs out; see {log}" in stderr
    assert "another day" not in stderr


@pytest.mark.slow
def test_a_cell_that_diverged_at_once_may_be_given_another_rate(tmp_path: Path, coco_dir: Path) -> None:
    """Its folder has neither a checkpoint nor a figure that the new run would belie."""
    for rate, code in ((1e20, 6), (0.01, 0)):
        path = write_grid(tmp_path, coco_dir, seeds=[1], arms=["bn"], by_arm={"bn": {"optimizer.args.lr": rate}})
        ended = program("grid.py", str(path))
        assert ended.returncode == code, ended.stderr
    assert not (load_grid(path).cells[0].folder / "diverged.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_grid_ends_its_runs_and_goes_on_to_the_same_figures(tmp_path: Path, coco_dir: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    paths = []
    for place in (straight, broken):
        place.mkdir()
        longer = settings(coco_dir) | {"trainer.epochs": 12}
        paths.append(write_grid(place, coco_dir, arms=["bncn"], seeds=[1, 2, 3], settings=longer))
    assert program("grid.py", str(paths[0]), "--jobs", "2").returncode == 0
    grid = load_grid(paths[1])
    running = start(paths[1])
    until(lambda: standing(grid.cells[0]).epochs >= 2)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    running = start(paths[1])  # at once: the runs that the first one left are still about to end
    until(lambda: standing(grid.cells[2]).epochs >= 2)
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=300)
    assert running.returncode == 143
    assert stderr == "stopped by SIGTERM; the same command goes on with the grid\n"
    for cell in grid.cells:
        with FolderLock() as lock:  # nothing runs any more
            if cell.folder.is_dir():
                lock.acquire(cell.folder)
    assert program("grid.py", str(paths[1]), "--jobs", "2").returncode == 0  # with as many threads a run
    assert figures(broken / "saved") == figures(straight / "saved")


def test_the_table_counts_seeds_and_names_what_runs(tmp_path: Path, coco_dir: Path) -> None:
    grid = load_grid(write_grid(tmp_path, coco_dir, noise=[0, 20]))
    progress = Progress(grid)
    progress.states.update(zip(grid.cells, (FINISHED, RUNNING, FAILED), strict=False))
    progress.notes[grid.cells[2]] = "exit code 4: why"
    lines = progress.table()
    assert lines[0].split() == ["dataset", "noise", "bn", "bncn"]
    assert lines[1].split() == ["coco", "0%", "1/2", "0/2"]
    assert lines[2].split() == ["coco", "20%", "0/2", "1!", "0/2"]
    assert lines[3] == "1 of 8 runs finished"
    assert lines[4:] == [
        "running: coco_bncn_0noise/seed1, epoch 0 of 2",
        "failed: coco_bn_20noise/seed1, exit code 4: why",
    ]


@pytest.mark.parametrize("rows", [50, 6])
def test_a_table_is_drawn_over_whole(tmp_path: Path, coco_dir: Path, rows: int) -> None:
    """On a terminal of 40 columns and few rows, the second table must begin where the first one began."""
    path = write_grid(tmp_path, coco_dir, seeds=[1], arms=["bn"], settings=settings(coco_dir) | {"trainer.device": "x"})
    shown, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 40, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    ended = subprocess.run(
        [sys.executable, "grid.py", str(path)], cwd=ROOT, stdout=terminal, stderr=subprocess.PIPE, env=environment
    )
    os.close(terminal)
    assert ended.returncode == 2
    text = os.read(shown, 1 << 16).decode().replace("\r\n", "\n")
    os.close(shown)
    tables = re.split(r"\x1b\[(\d+)F\x1b\[J", text)
    assert len(tables) > 3
    for table_before, up in zip(tables[::2], tables[1::2], strict=False):
        assert int(up) == sum(max(1, math.ceil(len(line) / 40)) for line in table_before.splitlines())
        assert int(up) < rows


def test_the_plan_of_many_cells_reads_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Counter[str]()

    def counted(path: Path, limit: int) -> bytes:
        read[os.path.realpath(path)] += 1
        return read_file(path, limit)

    monkeypatch.setattr("grids.plan.read_file", counted)
    cells = load_grid(ROOT / "configs" / "grids" / "paper.json").cells
    assert len(cells) == 54
    assert len(read) > 18  # with the files that the cells' own inherit
    assert set(read.values()) == {1}
    for cell in cells[::7]:
        assert load_config(cell.base, cell.overrides) == cell.config


def write_runs(grid: Grid) -> None:
    """Folders of runs that have finished, of the settings that the grid asks for."""
    for cell in grid.cells:
        cell.folder.mkdir(parents=True)
        (cell.folder / "config.json").write_text(json.dumps(cell.config.model_dump()))
        rows = "".join(f"{epoch},1.5\n" for epoch in range(1, cell.config.trainer.epochs + 1))
        (cell.folder / "metrics.csv").write_text(f"epoch,seconds\n{rows}")


def test_a_config_is_validated_only_where_it_differs(
    tmp_path: Path, coco_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = load_grid(write_grid(tmp_path, coco_dir, seeds=list(range(20))))
    write_runs(grid)
    moved, other = grid.cells[3], grid.cells[5]
    for cell, setting in ((moved, {"device": "cuda:1"}), (other, {"epochs": 3})):
        values = cell.config.model_dump()
        (cell.folder / "config.json").write_text(json.dumps(values | {"trainer": values["trainer"] | setting}))
    validated = []

    def counted(path: Path) -> Config:
        validated.append(path.parent)
        return load_config(path)

    monkeypatch.setattr("grids.progress.load_config", counted)
    refused = {cell: why for cell in grid.cells if (why := misfit(cell))}
    assert list(refused) == [other]
    assert "trainer.epochs is 3 there, 2 here" in refused[other]
    assert validated == [other.folder], "of 40 runs, and where one runs makes no difference"


def test_a_table_reads_the_files_of_running_cells_only(
    tmp_path: Path, coco_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = load_grid(write_grid(tmp_path, coco_dir, seeds=list(range(20))))
    write_runs(grid)
    read = []

    def counted(path: Path, limit: int) -> bytes:
        read.append(path.parent)
        return read_file(path, limit)

    monkeypatch.setattr("grids.progress.read_file", counted)
    progress = Progress(grid)
    assert "40 of 40 runs finished" in progress.table()
    assert read == [cell.folder for cell in grid.cells]
    running, ended = grid.cells[7], grid.cells[8]
    progress.states.update({running: RUNNING, ended: RUNNING})
    progress.table()
    progress.states[ended] = FINISHED
    for _ in range(3):
        read.clear()
        progress.table()
        assert running.folder in read
        assert set(read) <= {running.folder, ended.folder}
    assert ended.folder not in read


@pytest.mark.parametrize(("seeds", "left"), [(4, "about 46 min left"), (1000, "about 513 h left")])
def test_the_time_left_is_that_of_usual_epochs(tmp_path: Path, coco_dir: Path, seeds: int, left: str) -> None:
    grid = load_grid(write_grid(tmp_path, coco_dir, arms=["bn"], seeds=list(range(seeds))))
    for cell, seconds in zip(grid.cells, ([900, 950], [900, 90_000], [900]), strict=False):
        cell.folder.mkdir(parents=True)
        lines = [f"{epoch},{value}" for epoch, value in enumerate(seconds, 1)]
        (cell.folder / "metrics.csv").write_text("\n".join(["epoch,seconds", *lines, ""]))
    assert Progress(grid).table()[-1].endswith(left), "a median epoch takes 925 s"


def test_a_table_of_many_cells_names_the_first_of_each_state(tmp_path: Path, coco_dir: Path) -> None:
    grid = load_grid(write_grid(tmp_path, coco_dir, arms=["bn"], seeds=list(range(3333)), noise=[0, 10, 20]))
    progress = Progress(grid)
    progress.states.update(dict.fromkeys(grid.cells[:500], RUNNING) | dict.fromkeys(grid.cells[500:3500], FAILED))
    progress.notes.update(dict.fromkeys(grid.cells[500:3500], "exit code 4: why"))
    lines = progress.table()
    assert lines[1].split() == ["coco", "0%", "0/3333", "1000!"]
    assert lines[5:][:21] == [
        *(f"running: {cell.name}, epoch 0 of 2" for cell in grid.cells[:20]),
        "running: 480 more",
    ]
    assert lines[-1] == "failed: 2,980 more"
    assert len(lines) == 5 + 2 * 21


def test_the_command_of_a_cell_is_one_that_a_user_can_type(tmp_path: Path, coco_dir: Path) -> None:
    cell = load_grid(write_grid(tmp_path, coco_dir)).cells[0]
    argv = command(cell, "cuda:1")
    assert argv[argv.index("-d") + 1] == "cuda:1"
    assert load_config(cell.base, cell.overrides) == cell.config
    assert argv[-len(cell.overrides) :] == list(cell.overrides)
