"""Running the cells of a grid: so many processes at once, each an ordinary train.py."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from grids.plan import Cell, Grid
from grids.progress import FAILED, FINISHED, RUNNING, WAITING, log_path, misfit, standing, table
from utils.errors import ConfigError, FileSystemError, Stopped, UserError
from utils.files import write_atomically
from utils.lock import FolderLock
from utils.stopping import Handlers, exit_code

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.2  # seconds between two looks at the processes
REFRESH = 10.0  # seconds between two tables on a terminal
PATIENCE = 120.0  # seconds for a run that a killed grid left behind to save and end
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class CellsFailed(UserError):
    """Some cells did not finish; ends with the exit code of the first of them."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def command(cell: Cell, device: str | None = None) -> list[str]:
    """The command line of a cell, which starts its run, goes on with it, or finds that nothing is left to do."""
    where = ["-d", device] if device else []
    config = ["-c", str(cell.base), "--run-dir", str(cell.folder), "-r", "auto"]
    return [sys.executable, str(ROOT / "train.py"), *config, *where, *cell.overrides]


class GridRun:
    """Runs what is missing of `grid`, `jobs` cells at a time, the devices dealt out in turn."""

    def __init__(self, grid: Grid, jobs: int, devices: Sequence[str | None], show: Callable[[str], None]) -> None:
        self._grid, self._devices, self._show = grid, devices, show
        self._slots: list[subprocess.Popen | None] = [None] * jobs
        self._cell_of: dict[int, Cell] = {}  # by slot
        self._threads = max(1, _cores() // jobs)
        self._states = {cell: FINISHED if standing(cell).finished else WAITING for cell in grid.cells}
        self._notes: dict[Cell, str] = {}
        self._codes: dict[Cell, int] = {}
        self._signal = 0
        self._shown = 0.0

    def run(self) -> None:
        """Until every cell has finished or failed.

        Raises:
            CellsFailed: some failed; the others have been run all the same.
            Stopped: a signal came; the running cells have saved and ended.
            FileSystemError: another process runs this grid, or its folder cannot be written.
        """
        folder = self._grid.folder
        try:
            (folder / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileSystemError(f"cannot make {folder / 'logs'}: {error.strerror}; see save_dir") from None
        with FolderLock("grid's folder", "the grid another name") as lock, Handlers(self._remember):
            lock.acquire(folder)
            write_atomically(folder / "grid.json", self._grid.record())
            self._refuse_misfits()
            self._wait_for_orphans()
            try:
                while self._step():
                    time.sleep(POLL)
            finally:
                self._end_all()
        self._show(table(self._grid, self._states, self._notes))
        self._raise_what_is_wrong()

    def _step(self) -> bool:
        """Collect what has ended, start what there is room for; False when all is done."""
        for slot, process in enumerate(self._slots):
            if process is not None and process.poll() is not None:
                self._slots[slot] = None
                self._ended(self._cell_of.pop(slot), process.returncode)
        if self._signal:
            return False
        waiting = [cell for cell in self._grid.cells if self._states[cell] == WAITING]
        for slot, process in enumerate(self._slots):
            if process is None and waiting:
                self._start(slot, waiting.pop(0))
        busy = any(process is not None for process in self._slots)
        if busy and time.monotonic() - self._shown > REFRESH:
            self._table()
        return busy

    def _start(self, slot: int, cell: Cell) -> None:
        threads = str(self._threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
        with open(log_path(self._grid, cell), "ab") as log:
            self._slots[slot] = subprocess.Popen(
                command(cell, self._devices[slot % len(self._devices)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C in the terminal reaches the grid alone, which passes it on
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self._cell_of[slot] = cell
        self._states[cell] = RUNNING
        self._table()

    def _ended(self, cell: Cell, code: int) -> None:
        if code == 0:
            self._states[cell] = FINISHED
        elif self._signal:
            self._states[cell] = WAITING
        else:
            self._fail(cell, code if code > 0 else 128 - code, _last_line(log_path(self._grid, cell)))
        self._table()

    def _fail(self, cell: Cell, code: int, why: str) -> None:
        self._states[cell], self._codes[cell] = FAILED, code
        self._notes[cell] = f"exit code {code}: {why}"

    def _refuse_misfits(self) -> None:
        for cell in self._grid.cells:
            why = misfit(cell)
            if why:
                self._fail(cell, ConfigError.exit_code, why)

    def _wait_for_orphans(self) -> None:
        """Until no other process writes a run that is to go on; those that a killed grid left behind are on their way
        to save and end. A signal ends the wait, and so does a run that does not end: its cell then says so.
        """
        deadline = time.monotonic() + PATIENCE
        for cell in self._grid.cells:
            while self._states[cell] == WAITING and _in_use(cell.folder):
                if self._signal or time.monotonic() > deadline:
                    return
                time.sleep(POLL)

    def _end_all(self) -> None:
        """Ask what still runs to save and end, and wait for it."""
        for process in self._slots:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for slot, process in enumerate(self._slots):
            if process is not None:
                self._ended(self._cell_of.pop(slot), process.wait())
                self._slots[slot] = None

    def _raise_what_is_wrong(self) -> None:
        if self._signal:
            name = signal.Signals(self._signal).name
            raise Stopped(exit_code(self._signal), f"stopped by {name}; the same command goes on with the grid")
        if self._codes:
            failed = [cell.name for cell in self._grid.cells if cell in self._codes]
            listed = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
            first = next(iter(self._codes))
            raise CellsFailed(
                f"{len(failed)} of {len(self._grid.cells)} runs failed: {listed}; {self._notes[first]}; the same "
                "command tries them again",
                self._codes[first],
            )

    def _table(self) -> None:
        self._shown = time.monotonic()
        self._show(table(self._grid, self._states, self._notes))

    def _remember(self, number: int) -> None:
        self._signal = self._signal or number


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _die_with_parent() -> None:
    """In the child: be told to save and end when the grid is killed, so that no run goes on unseen."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _in_use(folder: Path) -> bool:
    try:
        with FolderLock() as lock:
            if folder.is_dir():
                lock.acquire(folder)
    except FileSystemError:
        return True
    return False


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else f"see {log}"
