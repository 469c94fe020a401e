"""torchrun on two hosts: what a run gives, and what becomes of it when one of them goes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import same_tree
from tests.runs import coco, final_state, rows
from tests.test_faults_processes import saved_and_whole, start_two
from tests.two_hosts import Host, two_hosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
EPOCHS = 24  # so many that a run is still at it when something happens to it
SECONDS = 400.0
Hosts = tuple[Host, Host]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with two_hosts() as both:
        yield both


def arguments(coco_dir: Path, folder: Path, *more: str) -> list[str]:
    return coco(coco_dir, folder, f"trainer.epochs={EPOCHS}", "lr_scheduler.args.milestones=[12]", *more)


@pytest.fixture(scope="module")
def on_one_host(coco_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two processes of this machine that nothing happened to."""
    place = tmp_path_factory.mktemp("one_host")
    for process in start_two(arguments(coco_dir, place / "run"), place):
        assert process.end(SECONDS).code == 0
    return place / "run"


def same_end(folder: Path, other: Path) -> None:
    assert rows(folder) == rows(other)
    states = [final_state(each, EPOCHS) for each in (folder, other)]
    assert same_tree(*({key: state[key] for key in ("model", "optimizer", "history")} for state in states)) == []


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def ended(hosts: Hosts, launchers: list[subprocess.Popen[bytes]]) -> list[int]:
    """The exit codes of both hosts' torchrun, which leave no process behind."""
    codes = [launcher.wait(SECONDS) for launcher in launchers]
    until(lambda: not any(host.processes() for host in hosts), "processes are left")
    return codes


def under_way(folder: Path) -> bool:
    return (folder / "checkpoint-epoch3.pth").exists()


def test_two_hosts_have_the_figures_of_one(coco_dir: Path, tmp_path: Path, hosts: Hosts, on_one_host: Path) -> None:
    launchers = [host.torchrun(tmp_path, arguments(coco_dir, tmp_path / "run")) for host in hosts]
    assert ended(hosts, launchers) == [0, 0], hosts[0].log(tmp_path).read_text()
    same_end(tmp_path / "run", on_one_host)


@pytest.mark.parametrize(
    ("victim", "fault", "minutes"), [(0, Host.kill, 60), (1, Host.kill, 60), (1, Host.pull_the_cable, 0.2)]
)
def test_36_a_host_goes(
    coco_dir: Path,
    tmp_path: Path,
    hosts: Hosts,
    on_one_host: Path,
    victim: int,
    fault: Callable[[Host], None],
    minutes: float,
) -> None:
    """The other one ends, in bounded time, and the same two commands go on from the newest checkpoint."""
    folder = tmp_path / "run"
    given = arguments(coco_dir, folder, f"trainer.lost_after_minutes={minutes}")
    launchers = [host.torchrun(tmp_path, given) for host in hosts]
    until(lambda: under_way(folder), "it has not begun")
    fault(hosts[victim])
    other = hosts[1 - victim]
    assert launchers[1 - victim].wait(SECONDS) == 1
    said = other.log(tmp_path).read_text()
    assert f"error: process {1 - victim} of 2: another process has gone" in said
    assert "exitcode  : 7 " in said
    until(lambda: not other.processes(), "processes are left")
    hosts[victim].kill()
    for path in folder.glob(".*.tmp"):
        path.unlink()  # of a first process that was killed within a save
    assert 3 <= saved_and_whole(folder)["epoch"] < EPOCHS
    hosts[victim].plug_in()
    again = arguments(coco_dir, folder, "-r", "auto", "trainer.lost_after_minutes=5")
    launchers = [host.torchrun(tmp_path, again) for host in hosts]
    assert ended(hosts, launchers) == [0, 0], hosts[0].log(tmp_path).read_text()
    same_end(folder, on_one_host)


@pytest.mark.parametrize(("victim", "whole"), [(0, False), (1, False), (1, True)])
def test_36_torchrun_starts_it_again(
    coco_dir: Path, tmp_path: Path, hosts: Hosts, on_one_host: Path, victim: int, whole: bool
) -> None:
    """With --max-restarts and `-r auto` the run goes on by itself. A whole host, not the first, is given its command
    again."""
    folder = tmp_path / "run"
    given = arguments(coco_dir, folder, "-r", "auto")
    launchers = [host.torchrun(tmp_path, given, "--max-restarts=3") for host in hosts]
    until(lambda: under_way(folder), "it has not begun")
    if whole:
        hosts[victim].kill()
        launchers[victim] = hosts[victim].torchrun(tmp_path, given, "--max-restarts=3")
    else:
        (process,) = (n for n, line in hosts[victim].processes().items() if "distributed.run" not in line)
        os.kill(process, signal.SIGKILL)
    assert ended(hosts, launchers) == [0, 0], hosts[0].log(tmp_path).read_text()
    assert "another process has gone" in hosts[1 - victim].log(tmp_path).read_text()
    same_end(folder, on_one_host)
