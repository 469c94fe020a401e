"""Kills, signals and full disks, in real processes. The numbers are those of docs/faults.md."""

import contextlib
import ctypes
import itertools
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from logger.log import get_logger, set_up_logging
from tests.conftest import ROOT, same_tree
from tests.faults import file_system, kill_at, limit_file_size, path_of, remount, slow_fsync
from tests.runs import Ended, Started, call, coco, contents, final_state, launch, one_line, rows, same_run
from trainer.checkpoint import CheckpointStore, read
from trainer.checkpoint_file import pack
from utils.files import staged
from utils.folder import Folder
from utils.stopping import STOP_SIGNALS, Handlers

LONG = ("trainer.epochs=6", "lr_scheduler.args.milestones=[4]")


@pytest.fixture(scope="session")
def long_run(coco_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six epochs; read only."""
    folder = tmp_path_factory.mktemp("long") / "run"
    assert launch(folder.parent, *coco(coco_dir, folder, *LONG)).code == 0
    return folder


# --- kills ---------------------------------------------------------------------------------------------------------

MOMENTS = ["mid-write", "before the file's fsync", "before the replace", "before the folder's fsync"]


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        *((moment, "checkpoint-epoch2.pth") for moment in (MOMENTS[0], MOMENTS[3])),
        (MOMENTS[2], "model_best.pth"),
        *(pytest.param(moment, "checkpoint-epoch2.pth", marks=pytest.mark.slow) for moment in MOMENTS[1:3]),
        *(pytest.param(MOMENTS[n], "model_best.pth", marks=pytest.mark.slow) for n in (0, 1, 3)),
    ],
)
def test_01_killed_within_a_save(finished: Path, coco_dir: Path, tmp_path: Path, moment: str, name: str) -> None:
    folder = tmp_path / "run"
    assert launch(tmp_path, *coco(coco_dir, folder), prepare=[kill_at(moment, name)]).code == -signal.SIGKILL
    left = list(folder.glob(f".{name}.*.tmp"))
    assert len(left) == (moment != "before the folder's fsync")
    for path in folder.glob("*.pth"):
        read(path)  # whatever bears a checkpoint's name is a whole one
    ended = launch(tmp_path, "-r", "auto", "--run-dir", folder)
    assert ended.code == 0, ended.err
    assert re.search(r"taking over .* from pid \d+", ended.out)
    same_run(folder, finished, 3)


def test_01_a_save_syncs_the_file_then_replaces_then_syncs_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only a power cut could show: the order of the calls."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append("fsync " + Path(path_of(descriptor)).name.split(".0")[0])
        fsync(descriptor)

    def spy_replace(source: Path, target: Path, **options: int | None) -> None:
        calls.append(f"replace {target.name}")
        replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    from utils.files import write_atomically

    write_atomically(tmp_path / "a.pth", b"data")
    assert calls == ["fsync .a.pth", "replace a.pth", f"fsync {tmp_path.name}"]


@pytest.mark.parametrize("program", ["export.py", "test.py"])
def test_01_what_a_killed_program_left_goes_with_its_next_write(finished: Path, tmp_path: Path, program: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    checkpoint = Path(shutil.copy(finished / "model_best.pth", folder / "x.pth"))
    name = {"export.py": "x.safetensors", "test.py": "x-test.json"}[program]
    arguments = ("-r", checkpoint, *(("--safetensors", folder / name) if program == "export.py" else ()))
    killed = Started(arguments, tmp_path / "process", [kill_at("mid-write", name)], program).end()
    assert killed.code == -signal.SIGKILL
    assert len(list(folder.glob(f".{name}.*.tmp"))) == 1
    assert Started(arguments, tmp_path / "process", program=program).end().code == 0
    assert (folder / name).is_file()
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("held", [False, True])
def test_01_temporary_files_of_others_stay(tmp_path: Path, held: bool) -> None:
    """Of a process that lives, of one that cannot be told, until an hour after its last write, and of other files."""
    with staged(tmp_path / "a.csv", b"written right now") as living:
        other = living.name.replace("a.csv", "b.csv")
        unknown = re.sub(r"-[0-9a-f]{8}-", "-00000000-", living.name)
        old = unknown.replace("-00000000-", "-00000001-")
        dead = re.sub(r"-(\d+)\.tmp$", r"-1\1.tmp", living.name)  # an earlier process of the same pid
        for name in (other, unknown, old, dead):
            (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / old, (time.time() - 7200,) * 2)
        with Folder(tmp_path) if held else contextlib.nullcontext(Folder(tmp_path)) as folder:
            folder.write("a.csv", b"new")
        assert {path.name for path in tmp_path.iterdir()} == {"a.csv", living.name, other, unknown}
    assert not living.exists()


def newest(folder: Path) -> str | None:
    return next((path.name for path in CheckpointStore(folder).newest_first()), None)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_02_killed_25_times_at_random(coco_dir: Path, tmp_path: Path) -> None:
    options = ("trainer.epochs=100", "trainer.save_every_minutes=0.002", "trainer.monitor=min val_loss")
    folder, draw = tmp_path / "run", random.Random(4)
    arguments = coco(coco_dir, folder, *options)
    for turn in range(25):
        before = newest(folder)
        started = Started([*arguments, "-r", "auto"], tmp_path / "process")
        if turn % 2:  # within its work; the others also while it starts
            started.until(lambda before=before: newest(folder) != before)
        started.process.join(draw.uniform(0.0, 1.0))
        assert started.process.is_alive(), "the run must outlast its kills"
        started.send(signal.SIGKILL)
        assert started.end().code == -signal.SIGKILL
        for path in folder.glob("*.pth"):
            read(path)
    assert Started([*arguments, "-r", "auto"], tmp_path / "process").end(600.0).code == 0
    straight = coco(coco_dir, tmp_path / "straight", *options)
    assert Started(straight, tmp_path / "process").end(600.0).code == 0
    same_run(folder, tmp_path / "straight", 100)


# --- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        *(signal.SIGINT, signal.SIGTERM),
        *(pytest.param(n, marks=pytest.mark.slow) for n in STOP_SIGNALS if n not in (signal.SIGINT, signal.SIGTERM)),
    ],
    ids=lambda number: signal.Signals(number).name,
)
def test_03_05_a_signal_saves_at_the_step(coco_dir: Path, tmp_path: Path, long_run: Path, number: int) -> None:
    folder = tmp_path / "run"
    started = Started(coco(coco_dir, folder, *LONG), tmp_path / "process")
    draw = random.Random(int(number))
    started.until(lambda: (folder / f"checkpoint-epoch{draw.randint(1, 3)}.pth").exists())
    started.process.join(draw.uniform(0.0, 0.2))
    started.send(number)
    name = signal.Signals(number).name
    code = 130 if number == signal.SIGINT else 143
    one_line(started.end(), code, f"stopped by {name} after epoch", f"-r auto --run-dir {folder}")
    state = read(CheckpointStore(folder).newest_first()[0])
    assert state["global_step"] == state["epoch"] * 5 + state["batch"]
    assert launch(tmp_path, "-r", "auto", "--run-dir", folder).code == 0
    same_run(folder, long_run, 6)


def test_03_the_program_itself_is_stopped_and_goes_on(coco_dir: Path, tmp_path: Path) -> None:
    """As a user starts it: python train.py, with no server before it."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "train.py", *coco(coco_dir, folder, "trainer.epochs=500")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (folder / "checkpoint-epoch2.pth").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    one_line(Ended(process.returncode, "", stderr), 143, "stopped by SIGTERM after epoch")
    epochs = read(CheckpointStore(folder).newest_first()[0])["epoch"] + 1
    assert launch(tmp_path, "-r", "auto", "--run-dir", folder, f"trainer.epochs={epochs}").code == 0
    assert len(rows(folder)) == epochs


def test_03_a_signal_before_training_ends_the_program_at_once(coco_dir: Path, tmp_path: Path) -> None:
    started = Started(coco(coco_dir, tmp_path / "run"), tmp_path / "process", [partial(_signal_in, "build_data")])
    one_line(started.end(), 143, "stopped by SIGTERM; nothing was left to save")


def _signal_in(name: str) -> None:
    import data_loader.build

    original = getattr(data_loader.build, name)

    def signalled(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    setattr(data_loader.build, name, signalled)


def test_03_a_signal_that_was_ignored_at_the_start_stays_ignored() -> None:
    """As under nohup."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    came: list[int] = []
    try:
        with Handlers(came.append):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert came == [signal.SIGUSR1]


def test_04_signals_within_a_save(coco_dir: Path, tmp_path: Path, long_run: Path) -> None:
    folder = tmp_path / "run"
    slow = slow_fsync("checkpoint-epoch2.pth", 1.5)
    started = Started(coco(coco_dir, folder, *LONG), tmp_path / "process", [slow])
    started.until(lambda: list(folder.glob(".checkpoint-epoch2.pth.*.tmp")))
    for _ in range(3):
        started.send(signal.SIGTERM)
        started.process.join(0.1)
    assert not (folder / "checkpoint-epoch2.pth").exists(), "the signals came after the save, not within it"
    one_line(started.end(), 143, "stopped by SIGTERM after epoch 2; saved")
    assert read(folder / "checkpoint-epoch2.pth")["epoch"] == 2
    assert launch(tmp_path, "-r", "auto", "--run-dir", folder).code == 0
    same_run(folder, long_run, 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "amp", "noise"),
    list(itertools.product(["bn", "conv", "bncn"], ["null", "bf16"], [0, 20])),
)
def test_03_any_arm_goes_on_bit_for_bit(coco_dir: Path, tmp_path: Path, arm: str, amp: str, noise: int) -> None:
    """Stopped by a signal at a step drawn at random, twice in one run, with label noise."""
    options = (*LONG, f"trainer.amp={amp}")
    folder, straight, draw = tmp_path / "run", tmp_path / "straight", random.Random(f"{arm} {amp} {noise}")
    arguments = coco(coco_dir, folder, *options, arm=arm, noise=noise)
    for epoch in (1, draw.randint(2, 3)):
        started = Started([*arguments, "-r", "auto"], tmp_path / "process")
        started.until(lambda epoch=epoch: (folder / f"checkpoint-epoch{epoch}.pth").exists())
        started.process.join(draw.uniform(0.0, 0.2))
        started.send(signal.SIGTERM)
        assert started.end().code == 143
    assert launch(tmp_path, *arguments, "-r", "auto").code == 0
    assert launch(tmp_path, *coco(coco_dir, straight, *options, arm=arm, noise=noise)).code == 0
    same_run(folder, straight, 6)


def test_03_saving_every_so_many_minutes(coco_dir: Path, tmp_path: Path, finished: Path) -> None:
    """A run that is killed loses no more than that; what is saved within an epoch is dropped at its end."""
    folder = tmp_path / "run"
    every = "trainer.save_every_minutes=1e-9"
    kill = kill_at("before the replace", "checkpoint-epoch2-batch4.pth")
    assert launch(tmp_path, *coco(coco_dir, folder, every), prepare=[kill]).code == -signal.SIGKILL
    assert [path.name for path in CheckpointStore(folder).newest_first()] == [
        *("checkpoint-epoch2-batch3.pth", "checkpoint-epoch1.pth"),
    ]
    assert launch(tmp_path, "-r", "auto", "--run-dir", folder, "trainer.save_every_minutes=null").code == 0
    same = {**final_state(finished, 3)["config"]}
    assert rows(folder) == rows(finished)
    assert same_tree(final_state(folder, 3), {**final_state(finished, 3), "config": same}) == []
    assert {path.name for path in folder.glob("checkpoint*")} == {"checkpoint-epoch2.pth", "checkpoint-epoch3.pth"}


# --- disks ---------------------------------------------------------------------------------------------------------


def test_06_a_full_disk(coco_dir: Path, tmp_path: Path, finished: Path) -> None:
    with file_system(tmp_path / "disk", "1100k") as disk:
        folder = disk / "run"
        ended = launch(tmp_path, *coco(coco_dir, folder))
        assert ended.code == 5, ended.err
        last = ended.err.splitlines()[-1]
        assert re.fullmatch(rf"error: cannot write {folder}/\S+\.pth \(\d[\d,]+ bytes needed\): No space left.*", last)
        assert not list(folder.glob(".*.tmp"))
        before = contents(folder, "*.pth")
        assert before
        for path in folder.glob("*.pth"):
            read(path)
        remount(disk, "size=20m")
        assert launch(tmp_path, "-r", "auto", "--run-dir", folder).code == 0
        same_run(folder, finished, 3)


def test_07_a_file_size_limit(coco_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("trainer.tensorboard=false",)
    ended = launch(tmp_path, *coco(coco_dir, folder, *options), prepare=[limit_file_size(100_000)])
    one_line(ended, 5, f"cannot write {folder}/model_best.pth (", "bytes needed): File too large")
    assert not list(folder.glob("*.pth")) + list(folder.glob(".*.tmp"))


def test_08_the_curves_cannot_be_written(coco_dir: Path, tmp_path: Path, long_run: Path) -> None:
    """The events file comes to lie on a full disk in the course of the run."""
    folder = tmp_path / "run"
    hold = slow_fsync("checkpoint-epoch2.pth", 1.0)
    started = Started(coco(coco_dir, folder, *LONG), tmp_path / "process", [hold])
    started.until(lambda: list(folder.glob(".checkpoint-epoch2.pth.*.tmp")))
    (events,) = folder.glob("events.out.tfevents.*")
    events.unlink()
    events.symlink_to("/dev/full")
    one_line(started.end(), 0, f"WARNING: cannot write TensorBoard events in {folder}", "training goes on")
    assert rows(folder) == rows(long_run)
    assert same_tree(final_state(folder, 6), final_state(long_run, 6)) == []


def _full_log() -> None:
    """What is opened as train.log is /dev/full."""
    append = Folder.append

    def full(self: Folder, name: str) -> BinaryIO:
        return open("/dev/full", "ab", buffering=0) if name == "train.log" else append(self, name)

    Folder.append = full


def test_08_the_log_cannot_be_written(coco_dir: Path, tmp_path: Path, finished: Path) -> None:
    folder = tmp_path / "run"
    ended = launch(tmp_path, *coco(coco_dir, folder), prepare=[_full_log])
    one_line(ended, 0, f"WARNING: cannot write {folder}/train.log")
    same_run(folder, finished, 3)


def test_a_log_that_cannot_be_written_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its end is when Python collects it, which from 3.13 on tells of what could not be written."""
    monkeypatch.setattr(Folder, "append", Folder.append)
    _full_log()
    with Folder(tmp_path) as folder:
        set_up_logging(folder)
        handler = get_logger().handlers[-1]
        get_logger().info("a line")
    assert isinstance(handler, logging.StreamHandler)
    assert handler not in get_logger().handlers
    assert handler.stream.closed


def _no_csv(times: int) -> None:
    import errno

    import utils.files

    write, left = utils.files._write_all, [times]

    def failing(file, data) -> None:
        if ".metrics.csv." in path_of(file.fileno()) and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    utils.files._write_all = failing


@pytest.mark.parametrize(("times", "code"), [(2, 0), (9, 5)])
def test_08_metrics_csv_cannot_be_written(
    coco_dir: Path, tmp_path: Path, finished: Path, times: int, code: int
) -> None:
    """For a while: it is made up for. To the end: the run says so, and all of it is in the checkpoint."""
    folder = tmp_path / "run"
    ended = launch(tmp_path, *coco(coco_dir, folder), prepare=[partial(_no_csv, times)])
    assert ended.code == code
    assert ended.err.count("training goes on") == 1
    assert launch(tmp_path, "-r", "auto", "--run-dir", folder).code == 0
    same_run(folder, finished, 3)


def test_09_no_place_for_the_run(coco_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        one_line(launch(tmp_path, *coco(coco_dir, folder)), 5, f"cannot make the run folder {folder}")
    with file_system(tmp_path / "disk", "1m") as disk:
        (disk / "there").mkdir()
        remount(disk, "ro")
        for folder in (disk / "there", disk / "new"):
            one_line(launch(tmp_path, *coco(coco_dir, folder)), 5, str(folder), "Read-only file system")


def test_09_a_circle_of_links_for_the_run_s_folder(finished: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for resumed in (finished / "model_best.pth", "auto"):
        one_line(call("train.py", "-r", resumed, "--run-dir", loop), 5, str(loop))


def test_10_two_runs_in_one_folder(coco_dir: Path, tmp_path: Path, long_run: Path) -> None:
    folder = tmp_path / "run"
    first = Started(coco(coco_dir, folder, *LONG), tmp_path / "first")
    first.until(lambda: (folder / "checkpoint-epoch1.pth").exists())
    os.kill(first.process.pid, signal.SIGSTOP)
    before = contents(folder)
    newest = CheckpointStore(folder).newest_first()[0]
    for arguments in (
        coco(coco_dir, folder),
        ["-r", "auto", "--run-dir", folder],
        ["-r", newest],
        [*coco(coco_dir, folder, *LONG), "-r", "auto"],
    ):
        one_line(launch(tmp_path, *arguments), 5, f"{folder} is in use by pid {first.process.pid} on")
    assert launch(tmp_path, "-r", "auto", "--run-dir", folder, "--check").code == 0  # which writes nothing
    assert contents(folder) == before
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.end().code == 0
    same_run(folder, long_run, 6)


def test_10_the_lock_of_a_dead_process_is_taken_over(coco_dir: Path, tmp_path: Path, long_run: Path) -> None:
    folder = tmp_path / "run"
    first = Started(coco(coco_dir, folder, *LONG), tmp_path / "first")
    first.until(lambda: (folder / "checkpoint-epoch1.pth").exists())
    first.send(signal.SIGKILL)
    assert first.end().code == -signal.SIGKILL
    ended = launch(tmp_path, "-r", "auto", "--run-dir", folder)
    assert ended.code == 0
    assert f"taking over {folder} from pid {first.process.pid}" in ended.out
    same_run(folder, long_run, 6)


def test_10_a_run_that_ended_leaves_its_lock_open(finished: Path) -> None:
    assert (finished / ".lock").read_bytes() == b""


def _on_a_machine_called(name: bytes) -> None:
    assert ctypes.CDLL(None).unshare(0x04000000) == 0  # CLONE_NEWUTS: the name is this process's alone
    socket.sethostname(name)


@pytest.mark.parametrize(("name", "shown"), [(b"a\xff/b c", "a__b_c"), (b"", "unnamed")], ids=["odd", "none"])
def test_10_a_machine_of_an_odd_name(coco_dir: Path, tmp_path: Path, name: bytes, shown: str) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode:
        pytest.skip("a process cannot have a machine's name of its own here")
    folder = tmp_path / "run"
    started = Started(coco(coco_dir, folder), tmp_path / "process", [partial(_on_a_machine_called, name)])
    started.until(lambda: (folder / "metrics.csv").exists())
    assert (folder / ".lock").read_text() == f"pid {started.process.pid} on {shown}\n"
    ended = started.end()
    assert (ended.code, ended.err) == (0, "")
    assert [path.name.split(".", 4)[4].rsplit(".", 2)[0] for path in folder.glob("events*")] == [shown]


# --- what lies in a run folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [b"garbage", b'{"seed": 1}', *(pytest.param(data, marks=pytest.mark.slow) for data in (b"", b"\0" * 100, b"[]"))],
    ids=["garbage", "another", "empty", "zeros", "list"],
)
def test_37_a_damaged_config_in_the_run_folder(finished: Path, tmp_path: Path, garbage: bytes) -> None:
    """The run folder keeps no index of its checkpoints that could be damaged; its config is in each of them."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "checkpoint-epoch3.pth").unlink()
    for name in ("config.json", "metrics.csv", "noise.npz", "latest", ".lock"):
        (folder / name).write_bytes(garbage)
    ended = launch(tmp_path, "-r", "auto", "--run-dir", folder)
    assert ended.code == 0, ended.err
    assert re.match(r"WARNING: .*config\.json: .*; using the config of .*checkpoint-epoch2\.pth\n", ended.err)
    same_run(folder, finished, 3)
    assert contents(folder)["config.json"] == contents(finished)["config.json"]


def test_37_files_that_are_no_checkpoints_are_left_alone(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    theirs = {
        ".notes.txt.0a1b2c3d.tmp": b"mine",
        "checkpoint-epochX.pth": b"mine",
        "checkpoint-epoch1.pth.bak": b"mine",
        "weights.pth": b"mine",
    }
    for name, data in theirs.items():
        (folder / name).write_bytes(data)
    (folder / ".checkpoint-epoch9.pth.0a1b2c3d.tmp").write_bytes(b"half a save")
    assert launch(tmp_path, "-r", "auto", "--run-dir", folder, "trainer.epochs=4").code == 0
    assert theirs.items() <= contents(folder).items()
    assert not list(folder.glob(".checkpoint*.tmp"))


def test_38_a_finished_run(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    for arguments in (["-r", "auto", "--run-dir", folder], ["-r", folder / "checkpoint-epoch3.pth"]):
        ended = launch(tmp_path, *arguments)
        assert (ended.code, ended.err) == (0, "")
        assert "nothing to do: the run has had its 3 epochs" in ended.out
        assert contents(folder, "*.pth") == contents(finished, "*.pth")


STOPPED_AFTER_TRAINING = """
import os, sys
from train import run

number, config, folder, *overrides = sys.argv[1:]
run(config, overrides, run_dir=folder, on_epoch=lambda row: os.kill(os.getpid(), int(number)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_38_a_run_stopped_after_its_last_epoch_gets_its_last_events(
    coco_dir: Path, tmp_path: Path, number: int
) -> None:
    folder, script = tmp_path / "run", tmp_path / "script.py"
    script.write_text(STOPPED_AFTER_TRAINING)
    _, config, _, _, *overrides = coco(coco_dir, folder, "trainer.epochs=1")
    Started([int(number), config, folder, *overrides], tmp_path, program=str(script)).end()
    stopped = EventAccumulator(str(folder)).Reload().Tags()
    assert ("config" in stopped["tensors"]) == (number == signal.SIGTERM), "the hyper-parameters"
    assert "test/confusion" not in stopped["images"]
    before = contents(folder, "*.pth")
    resumed = launch(tmp_path, "-r", "auto", "--run-dir", folder)
    assert (resumed.code, resumed.err) == (0, "")
    assert "nothing to do" not in resumed.out
    whole = EventAccumulator(str(folder)).Reload().Tags()
    assert {"config", "test/worst_confusions"} <= set(whole["tensors"])
    assert {"test/confusion", "test/images"} <= set(whole["images"])
    assert "nothing to do: the run has had its 1 epochs" in launch(tmp_path, "-r", "auto", "--run-dir", folder).out
    assert contents(folder, "*.pth") == before
    assert len(rows(folder)) == 1


def test_files_are_not_for_others_to_change(coco_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "run"
    assert launch(tmp_path, *coco(coco_dir, folder, "trainer.epochs=1"), prepare=[partial(os.umask, 0)]).code == 0
    for path in [folder.parent, folder, *folder.iterdir()]:
        assert path.stat().st_mode & 0o002 == 0, path
    private = tmp_path / "private"
    assert launch(tmp_path, *coco(coco_dir, private, "trainer.epochs=1"), prepare=[partial(os.umask, 0o077)]).code == 0
    for path in [private, *private.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_save_that_does_not_read_back_as_written_is_no_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import utils.files
    from utils.errors import FileSystemError

    write = utils.files._write_all
    monkeypatch.setattr(utils.files, "_write_all", lambda file, data: write(file, bytes(len(data))))
    store = CheckpointStore(tmp_path)
    (tmp_path / "checkpoint-epoch1.pth").write_bytes(b"older")
    state = {"epoch": 2, "batch": 0, "x": torch.ones(3)}
    with pytest.raises(FileSystemError, match="what was read back is not what was written"):
        store.save(state, newest=True, best=False)
    assert contents(tmp_path) == {"checkpoint-epoch1.pth": b"older"}
    assert pack(state)
