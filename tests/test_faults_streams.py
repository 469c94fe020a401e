"""Outputs that are closed, full or narrow, text from others, signals that are lost, and errors that are not ours."""

import fcntl
import importlib
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from parse_config import load_config
from tests.conftest import ROOT, fresh_program, program, write_image_folder
from tests.faults import little_memory_for_a_step
from tests.runs import Ended, Started, call, coco, contents, evaluate, launch, one_line, rows, run
from tests.test_grid import settings, write_grid
from trainer.environment import code_version
from utils import output
from utils.cli import run_program
from utils.errors import CheckpointError, DataError, Stopped
from utils.folder import Folder
from utils.progress import Bar
from utils.text import as_line

TERMINAL = "\x1b]0;owned\x07\x1b[2J"
SHORT = ("trainer.epochs=1", "trainer.tensorboard=false")

# --- 49: signals while something is read -----------------------------------------------------------------------------


class _Lost:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def _signal_in(where: str, becomes: str) -> None:
    """Let SIGTERM come when the function `where` is called: raised, made another error of, or lost without a word."""
    module, _, name = where.rpartition(".")
    owner = importlib.import_module(module)
    function = getattr(owner, name)

    def asked(*arguments: object, **options: object) -> object:
        setattr(owner, name, function)
        if becomes == "lost":
            _Lost()
        elif becomes == "another error":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except BaseException as error:
                raise RuntimeError("a reader in C++ made this of it") from error
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments, **options)

    setattr(owner, name, asked)


def signal_in(where: str, becomes: str = "raised") -> Callable[[], None]:
    return partial(_signal_in, where, becomes)


def stopped(ended: Ended) -> None:
    one_line(ended, 143, "stopped by SIGTERM; nothing was left to save")


@pytest.mark.parametrize(
    ("where", "becomes"),
    [
        ("utils.tensor_file.TensorUnpickler", "raised"),
        ("trainer.checkpoint_file.read_tensors", "raised"),
        ("trainer.checkpoint_file.read_tensors", "another error"),
        ("trainer.checkpoint_file.read_tensors", "lost"),
        ("trainer.checkpoint.checked", "another error"),
    ],
)
def test_49_a_signal_while_a_checkpoint_is_read(finished: Path, tmp_path: Path, where: str, becomes: str) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    before = contents(folder)
    arguments = ("-r", "auto", "--run-dir", folder, "trainer.epochs=4")
    stopped(launch(tmp_path, *arguments, prepare=[signal_in(where, becomes)]))
    assert contents(folder) | {".lock": b""} == before | {".lock": b""}


@pytest.mark.parametrize(
    ("where", "becomes"),
    [("data_loader.restricted_pickle._ArrayUnpickler", "raised"), ("numpy.frombuffer", "lost")],
)
def test_49_a_signal_while_data_are_read(coco_dir: Path, tmp_path: Path, where: str, becomes: str) -> None:
    folder = tmp_path / "run"
    stopped(launch(tmp_path, *coco(coco_dir, folder, *SHORT), prepare=[signal_in(where, becomes)]))
    assert not folder.exists()


@pytest.mark.parametrize("becomes", ["raised", "another error"])
def test_49_a_signal_while_a_cache_is_read(tmp_path: Path, becomes: str) -> None:
    """The cache is not taken for a damaged one and made again."""
    images = write_image_folder(tmp_path / "images" / "set")
    kind = ["data_loader.type=ImageFolder", f"data_loader.args.data_dir={images}"]
    arguments = ["-c", "configs/demo.json", "arch.args.norm=bn", *kind]
    assert run(*arguments, "--check", "arch.args.width=4", "data_loader.args.test_subset=null") == 0
    (cache,) = images.parent.glob("*.npz")
    before = (cache.read_bytes(), cache.stat().st_mtime_ns)
    stopped(
        launch(tmp_path, *arguments, "--check", prepare=[signal_in("numpy.lib.format.read_array_header_1_0", becomes)])
    )
    assert (cache.read_bytes(), cache.stat().st_mtime_ns) == before


def test_49_no_error_of_ours_is_made_of_a_request_to_stop() -> None:
    def read() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        except BaseException as error:
            raise CheckpointError("the file is damaged") from error

    assert run_program(read, []) == 143
    Stopped.forget()
    with pytest.raises(DataError):
        raise DataError("after that, errors are errors again")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["argparse", "torch"])
def test_49_a_signal_while_a_program_starts(tmp_path: Path, module: str, number: int, code: int) -> None:
    """Before it has handlers of its own, and while torch is imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, arguments):\n"
        f"    if event == 'import' and arguments[0] == {module!r}:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "sys.addaudithook(hook)\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "train.py", "-c", "configs/demo.json", "--check"],
        **{"cwd": ROOT, "env": os.environ | {"PYTHONPATH": paths}, "capture_output": True, "text": True},
    )
    one_line(Ended(ended.returncode, ended.stdout, ended.stderr), code, f"stopped by {signal.Signals(number).name}")


# --- 52: text from others --------------------------------------------------------------------------------------------


def test_52_the_names_of_classes_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = (f"red{TERMINAL}", "two\nlines", "left\u202eright", "long" * 50)
    images = write_image_folder(tmp_path / "set", classes)
    place = [f"data_loader.args.data_dir={images}", "data_loader.args.test_subset=null", "arch.args.width=4"]
    arguments = ["-c", "configs/demo.json", "data_loader.type=ImageFolder", "arch.args.norm=bn", *place, *SHORT]
    assert run(*arguments, "--check") == 0
    assert run(*arguments, "--run-dir", tmp_path / "run") == 0
    ended = evaluate(tmp_path, "-r", tmp_path / "run" / "model_best.pth")
    assert ended.code == 0, ended.err
    for text in (capsys.readouterr().out, ended.out):
        assert all(char.isprintable() for char in text.replace("\n", "")), text
        for name in ("red\\x1b]0;owned\\x07\\x1b[2J ", "\n  two lines ", "left\\u202eright ", "longlonglong"):
            assert name in text
    told = json.loads((tmp_path / "run" / "model_best-test.json").read_text())
    assert sorted(told["classes"]) == sorted(classes), "files have the names as they are"


def test_52_what_another_wrote_into_a_lock_is_not_shown(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    with open(folder / ".lock", "w") as file:
        file.write(f"pid 1 {TERMINAL}\nerror: all is lost" + "x" * 5_000_000)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = launch(tmp_path, "-r", "auto", "--run-dir", folder, "trainer.epochs=4")
    one_line(ended, 5, "is in use by another process")


def test_52_a_long_message_is_cut(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"name": "x", TERMINAL + "k" * 100_000: 1, "loss": "l" * 100_000}))
    for more in ((), ("--debug",)):
        ended = program("train.py", "-c", str(config), *more)
        assert ended.returncode == 2
        assert len(ended.stderr) < 50_000
        assert "\x1b" not in ended.stderr
        assert "2 problems" in ended.stderr


def test_52_what_is_logged_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from logger.log import get_logger, set_up_logging

    set_up_logging(Folder(tmp_path))
    get_logger().warning("of %s", f"a{TERMINAL}\nERROR: b\udcff" + "x" * 5_000_000)
    set_up_logging()
    said = capsys.readouterr().err
    logged = (tmp_path / "train.log").read_text()
    for text in (said, logged):
        assert "a\\x1b]0;owned\\x07\\x1b[2J\\nERROR: b\\udcff" in text
        assert len(text) < 2100
        assert text.count("\n") == 1


# --- 60 and 67: outputs that are closed, full, narrow or gone --------------------------------------------------------


def _no_reader(descriptor: int) -> None:
    read, write = os.pipe()
    os.dup2(write, descriptor)
    os.close(read)
    os.close(write)


def _closed(*descriptors: int) -> None:
    """As the interpreter is when it was started without them."""
    for number in descriptors:
        os.close(number)
    if 1 in descriptors:
        sys.stdout = sys.__stdout__ = None
    if 2 in descriptors:
        sys.stderr = sys.__stderr__ = None


def _full(*descriptors: int) -> None:
    for number in descriptors:
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)


def _narrow(encoding: str) -> None:
    for name in ("stdout", "stderr"):
        narrow = io.TextIOWrapper(getattr(sys, name).buffer, encoding=encoding, errors="strict")
        setattr(sys, name, narrow)
        setattr(sys, f"__{name}__", narrow)


FAULTS = {
    "no reader": [partial(_no_reader, 1), partial(_no_reader, 2)],
    "closed": [partial(_closed, 0, 1, 2)],
    "stderr closed": [partial(_closed, 2)],
    "full": [partial(_full, 1, 2)],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_67_a_run_goes_on_whatever_becomes_of_its_output(coco_dir: Path, tmp_path: Path, fault: str) -> None:
    """No checkpoint gets the number of a stream that is closed either: what it holds is read again."""
    folder = tmp_path / "run"
    ended = Started([*coco(coco_dir, folder, *SHORT)], tmp_path / "process", FAULTS[fault])
    ended.process.join(100)
    assert ended.process.exitcode == 0
    assert len(rows(folder)) == 1
    said = (folder / "train.log").read_text()
    assert "test accuracy after epoch 1" in said
    assert "WARNING" not in said


def _paused_reader(descriptors: tuple[int, ...], room: int) -> None:
    """A pipe of 8192 bytes that has so much room left, and whose reader does not read."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 8192)
    os.write(write, b"x" * (8192 - room))
    for number in descriptors:
        os.dup2(write, number)
    os.set_inheritable(read, True)


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe is Linux's")
@pytest.mark.parametrize(("room", "descriptors"), [(0, (1,)), (6000, (1, 2))])
def test_67_a_signal_while_nobody_reads(
    coco_dir: Path, tmp_path: Path, room: int, descriptors: tuple[int, ...]
) -> None:
    """Its next line waits for the reader, so it waits there for the signal, too."""
    folder = tmp_path / "run"
    long = coco(coco_dir, folder, "trainer.epochs=500", "lr_scheduler.args.milestones=[400]", *SHORT[1:])
    started = Started(long, tmp_path / "process", [partial(_paused_reader, descriptors, room)])
    started.until((folder / "config.json").exists)
    seen = b"", time.monotonic()

    def stands_still() -> bool:
        nonlocal seen
        table = folder / "metrics.csv"
        now = table.read_bytes() if table.exists() else b""
        seen = seen if now == seen[0] else (now, time.monotonic())
        return time.monotonic() > seen[1] + 2

    started.until(stands_still)
    started.send(signal.SIGTERM)
    assert started.end(60).code == 143
    assert len(rows(folder)) < 500 if room else not (folder / "metrics.csv").exists()
    assert bool(list(folder.glob("checkpoint-*.pth"))) is bool(room)


def test_67_a_path_that_is_not_utf_8(coco_dir: Path, tmp_path: Path) -> None:
    """Every program takes it, also a run that ends, and TensorBoard's texts have it as escapes."""
    odd = tmp_path / os.fsdecode(b"a\xff")
    data, folder, picture = shutil.copytree(coco_dir, odd / "data"), odd / os.fsdecode(b"run\xff"), odd / "a.png"
    Image.new("RGB", (32, 32)).save(picture)
    for command in (
        ["train.py", *coco(data, folder, "trainer.epochs=1", f"trainer.save_dir={odd}")],
        ["train.py", "-r", "auto", "--run-dir", folder],
        ["test.py", "-r", folder / "model_best.pth"],
        ["predict.py", "-r", folder, picture, "-o", odd / "out.csv"],
        ["export.py", "-r", folder, "--safetensors", odd / "out.safetensors"],
        ["report.py", folder, "-o", odd / "report", "--records", odd / "records.zip"],
    ):
        ended = call(*command)
        assert (ended.code, ended.err) == (0, ""), command[0]
    shown = b"".join(contents(folder, "events*").values())
    assert f"{tmp_path}/a\\udcff/data".encode() in shown
    assert b"trainer.save_dir" in shown
    assert load_config(folder / "config.json").data_loader.args.data_dir == str(data)


@pytest.mark.parametrize("fault", ["no reader", "closed"])
def test_60_test_py_writes_its_files_though_nobody_reads_its_table(finished: Path, tmp_path: Path, fault: str) -> None:
    checkpoint = shutil.copytree(finished, tmp_path / "run") / "model_best.pth"
    ended = Started(["-r", checkpoint], tmp_path / "process", FAULTS[fault], "test.py")
    ended.process.join(100)
    assert ended.process.exitcode == 0
    assert json.loads(checkpoint.with_name("model_best-test.json").read_text())["images"] == 10
    assert checkpoint.with_name("model_best-confusion.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["| head -1", "<&- >&- 2>&-"])
def test_67_a_real_program_and_a_shell(tmp_path: Path, redirection: str) -> None:
    out = tmp_path / "digits.pkl"
    command = f"{sys.executable} prepare_data.py demo -o {out} --per-class 2 {redirection}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert out.exists()
    assert out.with_name("digits.pkl.manifest.json").exists()


@pytest.mark.slow
def test_60_a_grid_goes_on_though_nobody_reads_its_table(coco_dir: Path, tmp_path: Path) -> None:
    """Its runs have no data, so that each is short; both have been tried, and that is what the exit code is of."""
    lacking = settings(coco_dir) | {"data_loader.args.data_dir": str(tmp_path / "nowhere")}
    path = write_grid(tmp_path, coco_dir, arms=["bn"], settings=lacking)
    command = f"{sys.executable} grid.py {path} --jobs 2 | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: 2 of 2 runs failed")
    assert ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_60_a_grid_trains_though_nobody_reads_its_table(coco_dir: Path, tmp_path: Path) -> None:
    path = write_grid(tmp_path, coco_dir)
    command = f"{sys.executable} grid.py {path} 2>&- | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0
    assert len(list((tmp_path / "saved").rglob("metrics.csv"))) == 4


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_67_a_narrow_encoding(finished: Path, tmp_path: Path, encoding: str) -> None:
    """The path of the run stands for any text; cp1252 has the accent, and neither has the rest."""
    folder = shutil.copytree(finished, tmp_path / "caf\u00e9-\u72ac")
    ended = Started(["-r", "auto", "--run-dir", folder], tmp_path / "process", [partial(_narrow, encoding)])
    ended.process.join(100)
    assert ended.process.exitcode == 0
    said = (tmp_path / "process" / "stdout.txt").read_bytes().decode(encoding)
    assert ("caf\\xe9-\\u72ac" if encoding == "ascii" else "caf\u00e9-\\u72ac") in said


def _own_terminal(name: str) -> None:
    """Make `name` the controlling terminal of this process, which gets SIGHUP when it closes, and its three streams."""
    os.setsid()
    terminal = os.open(name, os.O_RDWR)  # the first that a session opens is its own
    for stream in range(3):
        os.dup2(terminal, stream)
    os.close(terminal)


def test_67_a_terminal_that_is_closed(coco_dir: Path, tmp_path: Path) -> None:
    """Its bar and its log can no longer be shown, and SIGHUP says so: 143, and the state is saved."""
    folder = tmp_path / "run"
    long = coco(coco_dir, folder, "trainer.epochs=500", "lr_scheduler.args.milestones=[400]", "trainer.save_period=2")
    terminal, slave = pty.openpty()
    started = Started(long, tmp_path / "process", [partial(_own_terminal, os.ttyname(slave))])
    deadline = time.monotonic() + 200
    while not (folder / "checkpoint-epoch2.pth").exists():
        os.set_blocking(terminal, False)
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            time.sleep(0.05)
        assert time.monotonic() < deadline
    os.close(slave)
    os.close(terminal)
    assert started.end().code == 143
    newest = max(folder.glob("checkpoint-*.pth"), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name != "checkpoint-epoch2.pth" or len(list(folder.glob("checkpoint-*"))) == 1


@pytest.mark.parametrize("hidden", [False, True])
def test_bars_can_be_hidden(hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in all processes but the first, which share one terminal."""
    master, slave = pty.openpty()
    if hidden:
        monkeypatch.setenv("TQDM_DISABLE", "1")
    with open(slave, "w") as terminal, open(master, "rb"):
        monkeypatch.setattr("sys.stderr", terminal)
        with Bar(range(2), desc="x") as bar:
            assert bool(bar.disable) is hidden


def test_67_a_stream_of_ours(tmp_path: Path) -> None:
    """What others print is made visible too; what a program draws is not; a pipe that is full for now is waited for."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with open(write, "w", encoding="ascii") as theirs:
        stream = output._safe(theirs, 1)
        stream.write(f"{TERMINAL}\u202e\tcaf\u00e9\r\n")
        output.to_terminal(stream).write("\x1b[1F")
        stream.flush()
        assert os.read(read, 100) == b"\\x1b]0;owned\\x07\\x1b[2J\\u202e\tcaf\\xe9\\r\n\x1b[1F"
        while True:
            try:
                os.write(write, b"x" * 4096)
            except BlockingIOError:
                break
        reader = subprocess.Popen(["tail", "-c", "5"], stdin=read, stdout=subprocess.PIPE)
        stream.write("last!")
        stream.flush()
        os.close(read)
    assert reader.communicate(timeout=60)[0] == b"last!"
    assert as_line("a  b\nc", 6) == "a  ..."[:2] + " ..."


# --- 74, 75, 76: errors that no part of ours raised ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("arch.args.width=20000", ("weights take", "arch.args.width")),
        ("arch.args.width=1000000000", ("too large to compute with", "arch.args")),
        ("arch.args.width=9223372036854775808", ("arch.args.width", "less than")),
        ("arch.args.num_classes=1000000000000", ("arch.args.num_classes",)),
        ("arch.args.num_classes=1000000000000000000", ("too large to compute with",)),
        ("optimizer.args.lr=1e39", ("optimizer.args.lr", "less than or equal to")),
        ("optimizer.args.weight_decay=1e300", ("optimizer.args.weight_decay",)),
        ("trainer.epochs=" + "9" * 400, ("trainer.epochs",)),
    ],
)
def test_74_settings_that_are_too_large(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, parts: tuple[str, ...]
) -> None:
    assert run(*coco(coco_dir, tmp_path / "run", *SHORT, setting)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts), error
    assert "Exception raised from" not in error
    assert "enforce fail" not in error


def test_74_rates_whose_product_is_too_large(
    coco_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second epoch's rate is no float."""
    rates = ("optimizer.args.lr=1e-9", "lr_scheduler.args.gamma=3e38", "lr_scheduler.args.milestones=[1,2]")
    assert run(*coco(coco_dir, tmp_path / "run", *SHORT, *rates, "trainer.epochs=3")) in (2, 6)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (MemoryError(), 2, "out of memory (MemoryError): lower arch.args.width or data_loader.args.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has"), 2, "(CUDA out of memory):"),
        (OSError(12, "Cannot allocate memory"), 2, "out of memory"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
        (OverflowError(34, "Numerical result out of range"), 2, "too large to compute with"),
        (RuntimeError("can't start new thread"), 7, "no more threads"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel"), 7, "GPU failed"),
        (RuntimeError("foo_cuda does not have a deterministic implementation"), 2, "trainer.deterministic=false"),
    ],
)
def test_74_76_errors_of_python_and_torch(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int, part: str
) -> None:
    def fail() -> None:
        raise error

    assert run_program(fail, []) == code
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1


def test_74_a_compiler_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def fail() -> None:
        raise BackendCompilerFailed("inductor", OSError("the compiler is no program"), None)

    assert run_program(fail, []) == 2
    assert "the compiler is no program); set trainer.compile=false\n" in capsys.readouterr().err


def test_76_too_little_memory_for_a_step(coco_dir: Path, tmp_path: Path) -> None:
    ended = launch(tmp_path, *coco(coco_dir, tmp_path / "run", *SHORT), prepare=[little_memory_for_a_step])
    one_line(ended, 2, "error: out of memory", "arch.args.width", "data_loader.args.batch_size")


def _no_gpu_memory(where: str) -> None:
    owner, name = importlib.import_module(where.rpartition(".")[0]), where.rpartition(".")[2]

    def fail(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")

    setattr(owner, name, fail)


@pytest.mark.parametrize(
    "where",
    [
        "trainer.checkpoint_file.read_tensors",
        "trainer.trainer.load_optimizer",
        "trainer.checkpoint_file.check_numbers",
    ],
)
def test_76_too_little_gpu_memory_for_a_checkpoint(finished: Path, tmp_path: Path, where: str) -> None:
    """It is not the checkpoint that is malformed, and no older one is tried. There is no GPU here to fill."""
    folder = shutil.copytree(finished, tmp_path / "run")
    before = contents(folder, "*.pth")
    arguments = ("-r", "auto", "--run-dir", folder, "trainer.epochs=4")
    ended = launch(tmp_path, *arguments, prepare=[partial(_no_gpu_memory, where)])
    one_line(ended, 4, "there is not enough memory for it; free some")
    assert contents(folder, "*.pth") == before


def _less_memory_for_data() -> None:
    import resource

    import data_loader.build as build

    load = build.DATASETS["TinyCOCO"]

    def limited(*arguments: object) -> object:
        dataset = load(*arguments)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (1 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        bytearray(1 << 30)
        return dataset

    build.DATASETS["TinyCOCO"] = limited


def test_76_too_little_memory_for_the_data(coco_dir: Path, tmp_path: Path) -> None:
    ended = launch(tmp_path, *coco(coco_dir, tmp_path / "run", *SHORT), prepare=[_less_memory_for_data])
    one_line(ended, 3, "error: the data in", "there is not enough memory for it")


def test_76_debug_shows_every_cause(tmp_path: Path, coco_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tinycoco.pkl").write_bytes(b"\x80\x04\x95")
    (tmp_path / "c.json").write_text("{")
    for arguments, code, cause in (
        (coco(tmp_path / "bad", tmp_path / "run"), 3, "Error"),
        (["-c", str(tmp_path / "c.json")], 2, "json.decoder.JSONDecodeError"),
        (["-c", str(tmp_path)], 2, "IsADirectoryError"),
    ):
        assert run(*arguments, "--debug") == code
        said = capsys.readouterr().err
        assert cause in said
        assert "The above exception was the direct cause of the following exception:" in said
        assert run(*arguments) == code
        assert capsys.readouterr().err.count("\n") == 1


def test_75_settings_of_tqdm_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process of its own, since tqdm reads them when torch loads it."""
    monkeypatch.setenv("TQDM_NCOLS", "abc")
    monkeypatch.setenv("TQDM_BAR_FORMAT", "{x}")
    ended = fresh_program("test.py", "-r", str(tmp_path / "x.pth"))
    one_line(Ended(ended.returncode, ended.stdout, ended.stderr), 4, "x.pth is not there")


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"])
def test_75_settings_of_git_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    before = code_version()
    if before is None:
        pytest.skip("the tests do not run in a checkout of git")
    monkeypatch.setenv(name, str(tmp_path))
    assert code_version() == before


@pytest.mark.slow
def test_75_no_home_and_a_user_without_a_name(tmp_path: Path) -> None:
    """As in a container: the cache's second place is nowhere, and its first cannot be written."""
    images = write_image_folder(tmp_path / "images" / "set")
    tmp_path.chmod(0o755)
    images.parent.chmod(0o555)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    folder = tmp_path / "open" / "run"
    place = [f"data_loader.args.data_dir={images}", "data_loader.args.test_subset=null", "arch.args.width=4"]
    command = [sys.executable, "train.py", "-c", "configs/demo.json", "data_loader.type=ImageFolder", *place, *SHORT]
    for above in tmp_path.parents[:-1]:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
    user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--inh-caps=+dac_read_search"]
    bare = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")}
    start = [*user, "--ambient-caps=+dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*start, "true"], capture_output=True).returncode:
        pytest.skip("the user cannot be changed here")
    ended = subprocess.run(
        [*start, *command, "--run-dir", str(folder)], cwd=ROOT, env=bare, capture_output=True, text=True, timeout=200
    )
    one_line(Ended(ended.returncode, ended.stdout, ended.stderr), 0, "WARNING: the images are not cached")
    assert (folder / "model_best.pth").exists()
