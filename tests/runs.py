"""Small runs of the programs, what they leave, and real processes to do things to."""

import base64
import csv
import io
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train as train_program
from tests.conftest import ROOT, same_tree
from trainer.checkpoint import read
from trainer.state import RunState

SMALL = ("arch.args.width=4", "data_loader.args.batch_size=8", "trainer.save_dir=unused", "trainer.device=cpu")
FORTY = ("data_loader.args.subset=50", "data_loader.args.validation_split=0.18")


def run(*arguments: object) -> int:
    """train.py in this process."""
    return train_program.main([str(argument) for argument in arguments])


def coco(coco_dir: Path, folder: Path, *more: str, arm: str = "bn", noise: int = 20) -> list[str]:
    """Arguments for a small run of a shipped config: 40 training images, five steps an epoch, three epochs."""
    config = str(ROOT / "configs" / f"coco_{arm}_{noise}noise.json")
    options = [f"data_loader.args.data_dir={coco_dir}", "trainer.epochs=3", "lr_scheduler.args.milestones=[2]"]
    few = () if any(each.startswith("data_loader.type=") for each in more) else FORTY
    return ["-c", config, "--run-dir", str(folder), *SMALL, *few, *options, *more]


draws_pictures = True  # set for each test


def no_picture(paint: object, size: object, kind: str, *_: object, **options: Any) -> bytes:
    """The smallest of its kind, in place of what `utils.drawing.draw` takes its time for."""
    if kind == "svg":  # which a later report knows by its title
        return f"<svg>\n<dc:title>{options['metadata']['Title']}</dc:title>\n</svg>".encode()
    return base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )


def spare_pictures() -> None:
    import logger.confusion

    logger.confusion.draw = no_picture


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv but for the seconds."""
    with open(folder / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def final_state(folder: Path, epoch: int) -> RunState:
    """All that the checkpoint after `epoch` holds but the seconds."""
    state = read(folder / f"checkpoint-epoch{epoch}.pth")
    for row in state["history"]:
        del row["seconds"]
    return state


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves, as TensorBoard reads them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """`scalars` without those of the HParams tab, which a run writes each time that it ends."""
    return {tag: values for tag, values in scalars(folder).items() if not tag.startswith("hparam/")}


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


def same_run(folder: Path, straight: Path, epochs: int) -> None:
    """`folder` ended as the run that was never interrupted: tensors, metrics.csv and TensorBoard's curves."""
    assert rows(folder) == rows(straight)
    assert same_tree(final_state(folder, epochs), final_state(straight, epochs)) == []
    assert curves(folder) == curves(straight)
    assert not list(folder.glob(".*.tmp"))


# --- processes -----------------------------------------------------------------------------------------------------

# Forked from a server that has imported torch: they are processes like any other, but start in no time.
for _library in ("OMP", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")  # a server that forks may have no threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where there are more, the others may have the processor
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


@dataclass(frozen=True)
class Ended:
    code: int  # negative: the signal that killed it
    out: str
    err: str


class Started:
    """train.py, or another program, in a process of its own."""

    def __init__(
        self,
        arguments: Sequence[object],
        place: Path,
        prepare: Sequence[Callable[[], object]] = (),
        program: str = "train.py",
    ) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._files = (place / "stdout.txt", place / "stderr.txt")
        for file in self._files:
            file.write_text("")  # it may be killed before it gets there
        argv = [program, *(str(argument) for argument in arguments)]
        before = (*((spare_pictures,) if not draws_pictures else ()), *prepare)
        self.process = _CONTEXT.Process(target=_in_process, args=(argv, *self._files, before), daemon=True)
        self.process.start()

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def until(self, condition: Callable[[], object], seconds: float = 300.0) -> None:
        """Wait for `condition` while the process lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self._files[1].read_text()
            assert time.monotonic() < deadline, "it has not come to pass"
            time.sleep(0.005)

    def end(self, seconds: float = 300.0) -> Ended:
        """Wait for the process, no longer than `seconds`."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.send(signal.SIGKILL)
            raise AssertionError(f"it was still running after {seconds} s")
        out, err = (file.read_text() for file in self._files)
        return Ended(self.process.exitcode, out, err)


def launch(place: Path, *arguments: object, prepare: Sequence[Callable[[], object]] = ()) -> Ended:
    """train.py from start to end in a process of its own, in which `prepare` is called first."""
    return Started(arguments, place / "process", prepare).end()


def call(program: str, *arguments: object) -> Ended:
    """A program from start to end in this process: for what it says, not for what becomes of a process."""
    out, err = io.StringIO(), io.StringIO()
    main = runpy.run_path(str(ROOT / program), run_name="program")["main"]
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Ended(code, out.getvalue(), err.getvalue())


def evaluate(place: Path, *arguments: object, prepare: Sequence[Callable[[], object]] = ()) -> Ended:
    """test.py from start to end in a process of its own."""
    return Started(arguments, place / "process", prepare, "test.py").end()


def one_line(ended: Ended, code: int, *parts: str) -> None:
    """It ended with `code` and one line on stderr, which has the `parts`."""
    assert ended.code == code, ended.err
    assert ended.err.count("\n") == 1, ended.err
    for part in parts:
        assert part in ended.err, (part, ended.err)


def _in_process(argv: list[str], out: Path, err: Path, prepare: Sequence[Callable[[], object]]) -> None:
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream.fileno())
    os.chdir(ROOT)
    for function in prepare:
        function()
    code: object = 0
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0)
