"""grid.py --executor slurm, on a real Slurm of one node."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grids.plan import load_grid
from grids.progress import standing
from tests.conftest import ROOT, program
from tests.one_node_slurm import slurm, why_not
from tests.test_grid import figures, settings, until, write_grid

needs_slurm = pytest.mark.skipif(why_not() is not None, reason=f"no Slurm: {why_not()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def submit(path: Path, environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "grid.py", str(path), "--executor", "slurm", *more]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550)


def watch(path: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    argv = [sys.executable, "grid.py", str(path), "--executor", "slurm"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, cwd=ROOT, env=environment, **pipes)  # type: ignore[call-overload]


def queue(environment: dict[str, str]) -> list[str]:
    argv = ["squeue", "--me", "--array", "--noheader", "--format=%i %T"]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


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
    jobs = json.loads((there / "saved" / "tiny" / "slurm.json").read_text())
    assert len(jobs) == 2
    again = submit(there / "grid.json", cluster)
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads((there / "saved" / "tiny" / "slurm.json").read_text()) == jobs, "nothing was submitted again"


@needs_slurm
@pytest.mark.slow
def test_a_job_that_reaches_its_limit_saves_and_goes_on(
    tmp_path: Path, coco_dir: Path, cluster: dict[str, str]
) -> None:
    """And who watches may go: the jobs stay, and are not submitted again."""
    here, there = tmp_path / "here", tmp_path / "there"
    paths = []
    for place in (here, there):
        place.mkdir()
        longer = settings(coco_dir) | {"trainer.epochs": 12}
        paths.append(write_grid(place, coco_dir, arms=["bncn"], seeds=[1], settings=longer))
    (cell,) = load_grid(paths[1]).cells
    watching = watch(paths[1], cluster)
    until(lambda: standing(cell).epochs >= 2)
    watching.send_signal(signal.SIGTERM)
    _, stderr = watching.communicate(timeout=60)
    assert watching.returncode == 143
    assert stderr.startswith("stopped by SIGTERM; its jobs go on in Slurm")
    (job,) = queue(cluster)
    number = job.split()[0]
    subprocess.run(["scancel", "--signal=USR2", number], env=cluster, check=True)  # as Slurm does ahead of the limit
    log = cell.folder.parent.parent / "logs" / "coco_bncn_20noise-seed1.log"
    until(lambda: "stopped by SIGUSR1" in log.read_text())
    assert standing(cell).epochs < 12
    ended = submit(paths[1], cluster)  # Slurm starts a job that it was given back after two minutes
    assert ended.returncode == 0, ended.stderr
    assert json.loads((there / "saved" / "tiny" / "slurm.json").read_text()) == {cell.name: number}
    assert program("grid.py", str(paths[0]), "--jobs", str(os.cpu_count())).returncode == 0
    assert figures(there / "saved") == figures(here / "saved")


@needs_slurm
@pytest.mark.slow
def test_a_failed_job_is_told_of(tmp_path: Path, coco_dir: Path, cluster: dict[str, str]) -> None:
    path = write_grid(tmp_path, coco_dir, seeds=[1], by_arm={"bn": {"optimizer.args.lr": 1e20}})
    ended = submit(path, cluster)
    assert ended.returncode == 6
    assert ended.stderr.count("\n") == 1
    assert "1 of 2 runs failed: coco_bn_20noise/seed1; exit code 6: error: the loss became NaN" in ended.stderr
    assert standing(load_grid(path).cells[1]).finished


@needs_slurm
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("partition=none", "invalid partition"),
        ("memory=3", "Unavailable parameter(s): ['memory']"),
        ("gpu", "expected KEY=VALUE"),
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
