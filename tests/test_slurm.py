"""grid.py --executor slurm, on a real Slurm of one node, or of two."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grids.plan import Cell, load_grid
from grids.progress import FINISHED, log_path, standing
from grids.running import command
from grids.slurm import SlurmRun, _exit_path, _threads
from tests.conftest import ROOT, program
from tests.own_slurm import slurm, why_not
from tests.test_faults_processes import start_two
from tests.test_grid import figures, settings, until, write_grid
from trainer.checkpoint import read

EPOCHS = 48  # so many that a run is still at it when it is told to stop
needs_slurm = pytest.mark.skipif(why_not() is not None, reason=f"no Slurm: {why_not()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def submit(path: Path, environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "grid.py", str(path), "--executor", "slurm", *more]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1100)


def watch(path: Path, environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "grid.py", str(path), "--executor", "slurm", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, cwd=ROOT, env=environment, **pipes)


def write_longer_grid(place: Path, coco_dir: Path, epochs: int = EPOCHS) -> Path:
    longer = settings(coco_dir) | {"trainer.epochs": epochs}
    return write_grid(place, coco_dir, arms=["bncn"], seeds=[1], settings=longer)


@pytest.fixture(scope="module")
def longer_figures(coco_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Of that grid run here without a stop, on one core, as a Slurm job has that asks for no more."""
    place = tmp_path_factory.mktemp("here")
    path = write_longer_grid(place, coco_dir)
    assert program("grid.py", str(path), "--jobs", str(os.cpu_count())).returncode == 0
    return figures(place / "saved")


UnderWay = tuple[Path, Cell, "subprocess.Popen[str]"]


@pytest.fixture
def under_way(
    tmp_path: Path, coco_dir: Path, cluster: dict[str, str], longer_figures: dict[str, list[str]]
) -> UnderWay:
    """That grid on Slurm, its one cell in its third epoch or later, and the process that watches it. Nothing else is
    running by then: the run to compare with has been made."""
    path = write_longer_grid(tmp_path, coco_dir)
    (cell,) = load_grid(path).cells
    watching = watch(path, cluster)
    until(lambda: standing(cell).epochs >= 2)
    return path, cell, watching


def jobs_of(place: Path) -> dict[str, str]:
    return json.loads((place / "saved" / "tiny" / "slurm.json").read_text())


@needs_slurm
@pytest.mark.slow
def test_a_grid_on_slurm_has_the_figures_of_one_here(tmp_path: Path, coco_dir: Path, cluster: dict[str, str]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    ended = submit(write_grid(there, coco_dir, seeds=[1]), cluster, "--jobs", "1")
    assert ended.returncode == 0, ended.stderr
    assert "2 of 2 runs finished" in ended.stdout
    one_thread = str(os.cpu_count())  # jobs: one core each, as a Slurm job has that asks for no more
    assert program("grid.py", str(write_grid(here, coco_dir, seeds=[1])), "--jobs", one_thread).returncode == 0
    assert figures(there / "saved") == figures(here / "saved")
    jobs = jobs_of(there)
    assert len(jobs) == 2
    again = submit(there / "grid.json", cluster)
    assert (again.returncode, again.stderr) == (0, "")
    assert jobs_of(there) == jobs, "nothing was submitted again"


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_that_reaches_its_limit_saves_and_goes_on(
    tmp_path: Path, cluster: dict[str, str], under_way: UnderWay, longer_figures: dict[str, list[str]]
) -> None:
    """And who watches may go: the jobs stay, and are not submitted again."""
    path, cell, watching = under_way
    number = jobs_of(tmp_path)[cell.name]
    subprocess.run(["scancel", "--signal=USR2", number], env=cluster, check=True)  # as Slurm does ahead of the limit
    log = tmp_path / "saved" / "tiny" / "logs" / "coco_bncn_20noise-seed1.log"
    until(lambda: "stopped by SIGUSR1" in log.read_text())
    assert standing(cell).epochs < EPOCHS
    watching.send_signal(signal.SIGTERM)
    _, stderr = watching.communicate(timeout=60)
    assert watching.returncode == 143
    assert stderr.startswith("stopped by SIGTERM; its jobs go on in Slurm")
    ended = submit(path, cluster)  # Slurm starts a job that it was given back after two minutes
    assert ended.returncode == 0, ended.stderr
    assert jobs_of(tmp_path) == {cell.name: number}
    assert figures(tmp_path / "saved") == longer_figures


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cell_on_two_nodes_is_queued_again_and_goes_on(
    tmp_path: Path, coco_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It ends as two processes of one machine do that nothing happened to."""
    (tmp_path / "here").mkdir()
    (there,) = load_grid(write_longer_grid(tmp_path, coco_dir, epochs=20)).cells
    (here,) = load_grid(write_longer_grid(tmp_path / "here", coco_dir, epochs=20)).cells
    for process in start_two(command(here)[2:], tmp_path):
        assert process.end(600).code == 0
    with slurm(tmp_path_factory.mktemp("nodes"), 2) as cluster:
        watching = watch(tmp_path / "grid.json", cluster, "--slurm", "nodes=2")
        until(lambda: standing(there).epochs >= 2)
        number = jobs_of(tmp_path)[there.name]
        subprocess.run(["scancel", "--signal=USR2", number], env=cluster, check=True)
        log = tmp_path / "saved" / "tiny" / "logs" / "coco_bncn_20noise-seed1.log"
        until(lambda: "stopped by SIGUSR1" in log.read_text())
        assert standing(there).epochs < 20
        _, stderr = watching.communicate(timeout=900)
        assert watching.returncode == 0, stderr
        assert jobs_of(tmp_path) == {there.name: number}
    assert figures(tmp_path / "saved") == figures(tmp_path / "here" / "saved")
    assert read(there.folder / "checkpoint-epoch20.pth")["environment"]["world_size"] == 2


@pytest.mark.parametrize(
    ("said", "threads"),
    [
        ({"CPUS_PER_TASK": "3", "CPUS_ON_NODE": "8", "NTASKS_PER_NODE": "2"}, 3),
        ({"CPUS_ON_NODE": "8", "NTASKS_PER_NODE": "2"}, 4),
        ({"CPUS_ON_NODE": "8"}, 8),
    ],
)
def test_a_task_takes_its_share_of_the_node_s_cores(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], threads: int
) -> None:
    monkeypatch.setattr(os, "environ", {f"SLURM_{name}": value for name, value in said.items()})
    assert _threads() == threads


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cancelled_job_saves_and_the_next_command_goes_on(
    tmp_path: Path, cluster: dict[str, str], under_way: UnderWay, longer_figures: dict[str, list[str]]
) -> None:
    path, cell, watching = under_way
    subprocess.run(["scancel", jobs_of(tmp_path)[cell.name]], env=cluster, check=True)
    _, stderr = watching.communicate(timeout=300)
    assert watching.returncode == 143
    assert "1 of 1 runs failed: coco_bncn_20noise/seed1; exit code 143: stopped by SIGTERM after epoch" in stderr
    assert submit(path, cluster).returncode == 0
    assert figures(tmp_path / "saved") == longer_figures


def test_a_job_passes_on_the_signal_that_reaches_it_alone(tmp_path: Path) -> None:
    """As on a cluster that tracks processes by cgroup, where Slurm signals the first process of a job and no other."""
    log = tmp_path / "run.log"
    child = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print(1); time.sleep(60)"
    )
    job = f"from grids.slurm import TrainJob; from pathlib import Path; argv = [{sys.executable!r}, '-uc', {child!r}]; "
    job += f"TrainJob(argv, Path({str(log)!r}), Path('/'))()"
    process = subprocess.Popen([sys.executable, "-c", job], cwd=ROOT)
    until(lambda: log.exists() and log.read_text() == "1\n")
    process.send_signal(signal.SIGTERM)
    until(lambda: log.with_suffix(".exit").exists() and log.with_suffix(".exit").read_text() == "143")
    assert process.poll() is None, "it waits for Slurm to say what becomes of the job"
    process.kill()
    process.wait()


@needs_slurm
@pytest.mark.slow
def test_a_failed_job_is_told_of(tmp_path: Path, coco_dir: Path, cluster: dict[str, str]) -> None:
    path = write_grid(tmp_path, coco_dir, seeds=[1], by_arm={"bn": {"optimizer.args.lr": 1e20}})
    ended = submit(path, cluster)
    assert ended.returncode == 6
    assert ended.stderr.count("\n") == 1
    assert "1 of 2 runs failed: coco_bn_20noise/seed1; exit code 6: error: the loss became NaN" in ended.stderr
    assert standing(load_grid(path).cells[1]).finished


def test_a_job_that_ended_well_is_finished_though_its_last_rows_cannot_be_seen_yet(
    tmp_path: Path, coco_dir: Path
) -> None:
    slurm = SlurmRun.__new__(SlurmRun)  # whose constructor asks for Slurm
    slurm.grid = load_grid(write_grid(tmp_path, coco_dir, seeds=[1]))
    slurm.states = {}
    cell = slurm.grid.cells[0]
    place = _exit_path(log_path(slurm.grid, cell))
    place.parent.mkdir(parents=True)
    place.write_text("0")
    slurm._tell(cell, "1")
    assert slurm.states == {cell: FINISHED}


@needs_slurm
def test_jobs_that_were_submitted_and_not_noted_are_not_submitted_again(
    tmp_path: Path, coco_dir: Path, cluster: dict[str, str]
) -> None:
    path = write_grid(tmp_path, coco_dir, settings=settings(coco_dir) | {"trainer.epochs": 100})
    watching = watch(path, cluster)
    until((tmp_path / "saved" / "tiny" / "slurm.json").exists)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 130
    (tmp_path / "saved" / "tiny" / "slurm.json").unlink()
    ended = submit(path, cluster)
    assert ended.returncode == 5
    name = re.search(r"scancel --name=(tiny-[0-9a-f]{8}),", ended.stderr)
    assert name, ended.stderr
    subprocess.run(["scancel", f"--name={name[1]}"], env=cluster, check=True)


@needs_slurm
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("partition=none", "invalid partition"),
        ("memory=3", "Unavailable parameter(s): ['memory']"),
        ("gpu", "expected KEY=VALUE"),
        ("time=4:00:00", "time is in whole minutes"),
        ("use_srun=false", "use_srun cannot be given: it is the grid's"),
    ],
)
def test_what_slurm_will_not_have_is_one_line(
    tmp_path: Path, coco_dir: Path, cluster: dict[str, str], given: str, says: str
) -> None:
    ended = submit(write_grid(tmp_path, coco_dir), cluster, "--slurm", given)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert says in ended.stderr


def test_without_slurm_one_line_says_so(tmp_path: Path, coco_dir: Path) -> None:
    ended = submit(write_grid(tmp_path, coco_dir), {**os.environ, "PATH": str(tmp_path)})
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: --executor slurm: sbatch, srun and squeue are not on this machine; log in to the cluster's\n"
    )
    assert not (tmp_path / "saved").exists()


def test_slurm_s_options_are_for_slurm(tmp_path: Path, coco_dir: Path) -> None:
    path = write_grid(tmp_path, coco_dir)
    for more, says in (
        (["--slurm", "partition=gpu"], "--slurm is for --executor slurm"),
        (["--executor", "slurm", "-d", "cuda:0,cuda:1"], "Slurm deals out the devices"),
        (["--executor", "pbs"], "invalid choice"),
    ):
        ended = program("grid.py", str(path), *more)
        assert ended.returncode == 2
        assert says in ended.stderr
