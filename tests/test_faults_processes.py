"""Several processes that train one model, and what becomes of them. The numbers are those of docs/faults.md."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.runs import Ended, Started, coco, launch, one_line, rows, run
from trainer.checkpoint import CheckpointStore, read

MANY = ("trainer.epochs=400", "lr_scheduler.args.milestones=[200]", "trainer.save_period=2")
SECONDS = 100.0  # far more than it takes; PyTorch's own patience is half an hour


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _join(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def start_two(
    arguments: list[str], place: Path, *prepare: Callable[[], object], program: str = "train.py"
) -> list[Started]:
    port = free_port()
    return [
        Started(arguments, place / f"rank{rank}", [partial(_join, rank, port), *prepare], program) for rank in range(2)
    ]


def saved_and_whole(folder: Path) -> dict:
    """The newest checkpoint's state, once all of them have been read."""
    assert not list(folder.glob(".*.tmp"))
    states = [read(path) for path in CheckpointStore(folder).newest_first()]
    assert states
    return states[0]


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_36_one_of_two_processes_is_killed(coco_dir: Path, tmp_path: Path, victim: int) -> None:
    folder = tmp_path / "run"
    ranks = start_two(coco(coco_dir, folder, *MANY), tmp_path)
    ranks[0].until(lambda: (folder / "checkpoint-epoch2.pth").exists())
    ranks[victim].send(signal.SIGKILL)
    assert ranks[victim].end(SECONDS).code == -signal.SIGKILL
    other = ranks[1 - victim].end(SECONDS)
    one_line(other, 7, f"error: process {1 - victim} of 2: another process has gone", "go on with -r auto")
    for path in folder.glob(".*.tmp"):
        path.unlink()  # of a first process that was killed within a save, which test_01 is about
    epoch = saved_and_whole(folder)["epoch"]
    ended = launch(tmp_path, "-r", "auto", "--run-dir", folder, f"trainer.epochs={epoch + 1}")
    one_line(ended, 0, "WARNING: resume not bit-exact: world_size was 2, is 1\n")
    assert len(rows(folder)) == epoch + 1


@pytest.mark.parametrize("asked", [pytest.param((0, 1), marks=pytest.mark.slow), (1,)], ids=["both", "one"])
def test_36_two_processes_are_asked_to_stop(coco_dir: Path, tmp_path: Path, asked: tuple[int, ...]) -> None:
    """As torchrun does it, and where only one of them hears of it: both stop after the same step, and one speaks."""
    folder = tmp_path / "run"
    ranks = start_two(coco(coco_dir, folder, *MANY), tmp_path)
    ranks[0].until(lambda: (folder / "checkpoint-epoch2.pth").exists())
    for rank in asked:
        ranks[rank].send(signal.SIGTERM)
    first, second = (rank.end(SECONDS) for rank in ranks)
    assert (first.code, second.code) == (143, 143), (first.err, second.err)
    assert "stopped by SIGTERM after epoch" in first.err
    state = saved_and_whole(folder)
    assert state["global_step"] == 5 * state["epoch"] + state["batch"]
    assert state["environment"]["world_size"] == 2
    arguments = ["-r", "auto", "--run-dir", str(folder), f"trainer.epochs={state['epoch'] + 1}"]
    for rank, ended in enumerate(r.end(SECONDS) for r in start_two(arguments, tmp_path)):
        assert (ended.code, ended.err) == (0, ""), rank
    assert len(rows(folder)) == state["epoch"] + 1


def test_36_what_the_first_process_cannot_do_ends_them_all(coco_dir: Path, tmp_path: Path) -> None:
    first, second = (r.end(SECONDS) for r in start_two(coco(tmp_path / "no", tmp_path / "run"), tmp_path))
    one_line(first, 3, "TinyCOCO was not found")
    assert second.code == 3
    assert "Traceback" not in second.err


FROM_PYTHON = """
import os, signal, sys, warnings
import torch
from train import StopTraining, run

def on_epoch(row):
    {does}

config, folder, overrides = sys.argv[1], sys.argv[2], sys.argv[3:]
own = lambda: ("GLOO_SOCKET_IFNAME" in os.environ, [each for each in warnings.filters if "Grad" in str(each)])
assert own() == (False, [])
try:
    print("epochs:", len(run(config, overrides, run_dir=folder, on_epoch=on_epoch).history))
except BaseException as error:
    print("raised:", type(error).__name__, error)
assert own() == (False, []), own()
assert not torch.distributed.is_initialized()
"""
RARE = ("trainer.save_period=3", "trainer.monitor=off", "trainer.lost_after_minutes=0.5")


def from_python(coco_dir: Path, place: Path, does: str, *more: str) -> list[Ended]:
    """What becomes of two processes whose `on_epoch`, which the first of them calls, has the body `does`."""
    script = place / "script.py"
    script.write_text(FROM_PYTHON.format(does=does))
    _, config, _, _, *overrides = coco(coco_dir, place / "run", *RARE, *more)
    ranks = start_two([config, str(place / "run"), *overrides], place, program=str(script))
    return [rank.end(SECONDS) for rank in ranks]


@pytest.mark.parametrize(
    ("error", "first_says", "second_says"),
    [
        ("RuntimeError('gloo? mine')", "raised: RuntimeError gloo? mine\n", "raised: ProcessError process 1 of 2"),
        ("StopTraining", "epochs: 1\n", "epochs: 1\n"),
    ],
)
def test_36_an_error_of_on_epoch_saves_the_epoch_and_ends_both(
    coco_dir: Path, tmp_path: Path, error: str, first_says: str, second_says: str
) -> None:
    first, second = from_python(coco_dir, tmp_path, f"raise {error}")
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert first.out.endswith(first_says), first
    # The gloo of torch 2.10 says on stdout whom it is connected to.
    said = [line for line in second.out.splitlines(keepends=True) if not line.startswith("[Gloo]")]
    assert "".join(said).startswith(second_says), second
    assert "gone" not in first.out + second.out
    assert saved_and_whole(tmp_path / "run")["epoch"] == 1


def test_36_an_error_of_one_process_alone_ends_both(coco_dir: Path, tmp_path: Path) -> None:
    fails = "import trainer.trainer; trainer.trainer.Trainer.run_epoch = None"
    first, second = from_python(coco_dir, tmp_path, fails, "trainer.lost_after_minutes=100")
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert "raised: TypeError" in first.out
    assert "raised: ProcessError process 1 of 2: another process has gone" in second.out


def test_36_the_first_loss_of_any_process_that_is_not_finite_is_told(coco_dir: Path, tmp_path: Path) -> None:
    """That of the first process alone, and one step later, through the gradients, that of the second."""
    spoils = "sys._getframe(2).f_locals['self'].model.head.bias.data.fill_(float('nan'))"
    first, second = from_python(coco_dir, tmp_path, spoils, "trainer.save_period=1")
    assert "NonFiniteLossError" in first.out
    assert "NonFiniteLossError" in second.out
    assert (
        json.loads((tmp_path / "run" / "diverged.json").read_text())["step"]
        == saved_and_whole(tmp_path / "run")["global_step"] + 1
    )


@pytest.mark.parametrize(
    ("setting", "first_says", "second_says"),
    [
        ("optimizer.args.lr=1e30", "raised: NonFiniteLossError the loss", "raised: NonFiniteLossError the loss"),
        ("data_loader.args.data_dir=no", "raised: DataError TinyCOCO was not found", "raised: FirstFailed"),
    ],
)
def test_36_an_error_that_ends_both_ends_their_group_too(
    coco_dir: Path, tmp_path: Path, setting: str, first_says: str, second_says: str
) -> None:
    first, second = from_python(coco_dir, tmp_path, "pass", setting)
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert first_says in first.out
    assert second_says in second.out


@pytest.mark.parametrize("tensorboard", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_36_a_signal_to_one_in_the_last_epoch_stops_both(coco_dir: Path, tmp_path: Path, tensorboard: str) -> None:
    more = ("trainer.epochs=1", f"trainer.tensorboard={tensorboard}")
    for ended in from_python(coco_dir, tmp_path, "os.kill(os.getpid(), signal.SIGTERM)", *more):
        assert "raised: Stopped stopped by SIGTERM after epoch 1; saved." in ended.out, ended
        assert ended.code == 0, ended.err
    assert saved_and_whole(tmp_path / "run")["epoch"] == 1


# --- joining -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("rank", [0, 1])
def test_36_a_signal_while_the_other_does_not_come(
    coco_dir: Path, tmp_path: Path, rank: int, number: int, code: int
) -> None:
    """PyTorch waits for the other in C++, where Python's handlers are not called."""
    port = free_port()
    with socket.socket() as first:
        if rank == 1:
            first.bind(("127.0.0.1", port))
            first.listen()
        alone = Started(coco(coco_dir, tmp_path / "run"), tmp_path / "process", [partial(_join, rank, port)])
        if rank == 1:
            silent, _ = first.accept()  # and says nothing to what it is asked
        else:
            alone.until(lambda: first.connect_ex(("127.0.0.1", port)) == 0)
        time.sleep(0.2)
        alone.send(number)
        one_line(alone.end(SECONDS), code, f"stopped by {signal.Signals(number).name}")
        if rank == 1:
            silent.close()
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.pth"))


@pytest.mark.parametrize(("rank", "size"), [("0", "0"), ("0", "-1"), ("2", "2"), ("-1", "2"), ("one", "2")])
def test_36_numbers_of_processes_that_cannot_be(
    coco_dir: Path,
    tmp_path: Path,
    rank: str,
    size: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("RANK", rank), ("LOCAL_RANK", "0"), ("WORLD_SIZE", size)):
        monkeypatch.setenv(name, value)
    assert run(*coco(coco_dir, tmp_path / "run")) == 2
    assert "cannot join the other processes: start several processes with torchrun" in capsys.readouterr().err


# --- under torchrun ------------------------------------------------------------------------------------------------


def ranks_of(launcher: subprocess.Popen) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def torchrun(folder: Path, arguments: list[str]) -> tuple[subprocess.Popen, list[int]]:
    """A run of two processes that has saved, and the processes' numbers."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    launcher = subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 200
    while not (folder / "checkpoint-epoch2.pth").exists():
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks = ranks_of(launcher)
    assert len(ranks) == 2
    return launcher, ranks


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_36_one_of_torchrun_s_processes_is_killed(coco_dir: Path, tmp_path: Path, victim: int) -> None:
    folder = tmp_path / "run"
    launcher, ranks = torchrun(folder, coco(coco_dir, folder, *MANY))
    os.kill(ranks[victim], signal.SIGKILL)
    launcher.communicate(timeout=SECONDS)
    assert launcher.returncode != 0
    assert not any(alive(pid) for pid in ranks)
    epoch = CheckpointStore(folder).newest_first()
    assert all(read(path) for path in epoch)


@pytest.mark.slow
def test_36_torchrun_is_asked_to_stop(coco_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    launcher, ranks = torchrun(folder, coco(coco_dir, folder, *MANY))
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=SECONDS)
    assert launcher.returncode != 0
    assert not any(alive(pid) for pid in ranks)
    state = saved_and_whole(folder)
    assert state["global_step"] == 5 * state["epoch"] + state["batch"]
