"""Runs the missing cells of a grid; each run is an ordinary train.py. A subclass says where."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from grids.plan import Cell, Grid
from grids.progress import FAILED, FINISHED, Progress, misfit
from utils import strict_json
from utils.errors import ConfigError, FileSystemError, ProcessError, Stopped, UserError
from utils.folder import Folder
from utils.lock import FolderLock
from utils.run_files import GRID_NAME
from utils.stopping import StopRequest, exit_code
from utils.text import first_of, visible

ROOT = Path(__file__).resolve().parent.parent
LONGEST_LINE = 1 << 16  # bytes of a log's end that are looked at
REFRESH = 10.0  # seconds between two tables on a terminal
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
Show = Callable[[list[str], bool], None]  # is given a table, and whether it is the last


class CellsFailed(UserError):
    """Some cells failed. The program ends with the exit code of the first of them."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def command(cell: Cell, device: str | None = None) -> list[str]:
    """The command line that starts or resumes the run of a cell, or finds it finished."""
    where = ["-d", device] if device else []
    config = ["-c", str(cell.base), "--run-dir", str(cell.folder), "-r", "auto"]
    return [sys.executable, str(ROOT / "train.py"), *config, *where, *cell.overrides]


def start(
    argv: list[str],
    log: Path,
    threads: int,
    folder: Path | None = None,
    in_child: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a run with that many threads, in `folder` or the working directory; its output is appended to `log`.

    The run has its own session, so signals to this process, such as Ctrl-C in its terminal, do not reach it directly.
    It saves and ends when this process is killed (Linux). `in_child` is called in the child first.
    """
    number = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}

    def prepare() -> None:
        if in_child is not None:
            in_child()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    with Folder(log.parent.parent) as grid, grid.below(log.parent.name) as logs, logs.append(log.name) as file:
        return subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=prepare if os.name != "nt" else None,  # Windows has no fork to call it after
        )


class GridRun(ABC):
    """The state of each cell of `grid`, and the loop that ends when all cells have finished or failed.

    A subclass runs the cells. `show` is called with the table whenever it may have changed, and with whether it is the
    last.
    """

    pause = 0.2  # seconds between two looks at the runs
    goes_on = "the same command goes on with the grid"  # said when a signal stops this

    def __init__(self, grid: Grid, show: Show) -> None:
        self.grid = grid
        self.folder = Folder(grid.folder)
        self._progress = Progress(grid)
        self.states, self.notes = self._progress.states, self._progress.notes
        self.stop = StopRequest()
        self._codes: dict[Cell, int] = {}
        self._show = show
        self._shown = 0.0

    @abstractmethod
    def begin(self) -> None:
        """Prepare to run the cells that wait."""

    @abstractmethod
    def step(self) -> bool:
        """Collect the runs that have ended and start others. Returns whether anything runs or waits."""

    @abstractmethod
    def end(self) -> None:
        """Leave the runs in the state that they should have without this process; also called after a signal."""

    def run(self) -> None:
        """Run until every cell has finished or failed.

        Raises:
            CellsFailed: some cells failed; the others have been run all the same.
            Stopped: a signal came.
            FileSystemError: another process runs this grid, or its folder cannot be written.
        """
        logs = self.grid.folder / "logs"
        with FolderLock("grid's folder", "the grid another name") as lock, self.stop:
            try:
                self.grid.folder.mkdir(parents=True, exist_ok=True)
                self.folder = lock.acquire(self.grid.folder)
                self.folder.below(logs.name).release()
            except OSError as error:
                raise FileSystemError(f"cannot make {logs}: {error.strerror}; see save_dir") from error
            refuse_other_files(self.grid, self.folder)
            self.folder.write(GRID_NAME, self.grid.record())
            self._refuse_misfits()
            self.begin()
            try:
                while not self.stop.signal and self.step():
                    self._wait()
            finally:
                self.end()
        self.show(last=True)
        self._raise_what_is_wrong()

    def fail(self, cell: Cell, code: int, why: str) -> None:
        self.states[cell], self._codes[cell] = FAILED, code
        self.notes[cell] = f"exit code {code}: {why}"

    def ended(self, cell: Cell, code: int, log: Path, since: int = 0) -> None:
        """Record how the run of `cell` ended, by its return code; its output starts at byte `since` of `log`."""
        if code == 0:
            self.states[cell] = FINISHED
        elif code > 0:
            self.fail(cell, code, last_line(log, since))
        else:
            memory = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
            self.fail(cell, ProcessError.exit_code, f"killed by {_signal_name(-code)}{memory}; see {log}")

    def show(self, last: bool = False) -> None:
        self._shown = time.monotonic()
        self._show(self._progress.table(), last)

    def show_if_due(self) -> None:
        if time.monotonic() - self._shown > REFRESH:
            self.show()

    def _wait(self) -> None:
        """Sleep for `pause` seconds, or until a signal comes."""
        until = time.monotonic() + self.pause
        while not self.stop.signal and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _refuse_misfits(self) -> None:
        for cell in self.grid.cells:
            why = misfit(cell)
            if why:
                self.fail(cell, ConfigError.exit_code, why)

    def _raise_what_is_wrong(self) -> None:
        if self.stop.signal:
            name = signal.Signals(self.stop.signal).name
            raise Stopped(exit_code(self.stop.signal), f"stopped by {name}; {self.goes_on}")
        if self._codes:
            failed = [cell.name for cell in self.grid.cells if cell in self._codes]
            first = next(iter(self._codes))
            again = (
                "; the same command tries them again" if set(self._codes.values()) != {ConfigError.exit_code} else ""
            )
            raise CellsFailed(
                f"{len(failed)} of {len(self.grid.cells)} runs failed: {first_of(failed, 5)}; "
                f"{self.notes[first]}{again}",
                self._codes[first],
            )


def refuse_other_files(grid: Grid, folder: Folder) -> None:
    """Check the grid's folder before anything is written to it.

    Raises:
        FileSystemError: its grid.json was not written by a grid, or the folder of a cell is a link, which would lead
            the run elsewhere.
    """
    data = folder.read(GRID_NAME, 1 << 26)
    try:
        found = strict_json.loads(data.decode("utf-8-sig")) if data else None
    except ValueError:
        found = None
    if data and (not isinstance(found, dict) or found.keys() - {"notes"} != {"name", "cells"}):
        path = folder.path / GRID_NAME
        raise FileSystemError(f"{path} is not the record of a grid; move it away, or give the grid another name")
    for cell in grid.cells:
        for place in (cell.folder.parent, cell.folder):
            if place.is_symlink():
                raise FileSystemError(f"{place} is a link; put the folder itself there, or give the grid another name")


def last_line(log: Path, since: int = 0) -> str:
    """The last line of the output after byte `since` of the log: the reason, if the run failed."""
    try:
        with open(log, "rb") as file:
            file.seek(max(since, log.stat().st_size - LONGEST_LINE))
            lines = file.read(LONGEST_LINE).decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return visible(lines[-1]) if lines else f"see {log}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"
