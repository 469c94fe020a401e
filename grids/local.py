"""Runs the cells of a grid as processes of this machine, several at a time."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from grids.plan import Cell, Grid
from grids.progress import RUNNING, WAITING, log_path
from grids.running import GridRun, Show, command, start
from utils.errors import FileSystemError
from utils.lock import FolderLock

PATIENCE = 120.0  # seconds for a run that a killed grid left behind to save and end


class LocalRun(GridRun):
    """Runs `jobs` cells at a time, which share the cores and devices. When it stops, the runs save and end."""

    def __init__(self, grid: Grid, jobs: int, devices: Sequence[str | None], show: Show) -> None:
        super().__init__(grid, show)
        self._devices = devices
        self._slots: list[subprocess.Popen[bytes] | None] = [None] * jobs
        self._cell_of: dict[int, Cell] = {}  # by slot
        self._log_starts: dict[Cell, int] = {}  # bytes that its log had before
        self._deadline = 0.0
        self._threads = max(1, _cores() // jobs)

    def begin(self) -> None:
        self._deadline = time.monotonic() + PATIENCE

    def step(self) -> bool:
        for slot, process in enumerate(self._slots):
            if process is not None and process.poll() is not None:
                self._slots[slot] = None
                self._ended(self._cell_of.pop(slot), process.returncode)
        for slot, process in enumerate(self._slots):
            if process is None and (cell := self._next()):
                self._start(slot, cell)
        busy = any(process is not None for process in self._slots) or WAITING in self.states.values()
        if busy:
            self.show_if_due()
        return busy

    def _next(self) -> Cell | None:
        """The next cell to run; None if there is none.

        A cell whose folder another process writes waits, with a note, until all others have been started or PATIENCE
        ends: runs of a killed grid are about to save and end.
        """
        for cell in self.grid.cells:
            if self.states[cell] == WAITING:
                holder = _holder(cell.folder) if time.monotonic() < self._deadline else None
                if holder is None:
                    self.notes.pop(cell, None)
                    return cell
                if self.notes.get(cell) != holder:
                    self.notes[cell] = holder
                    self.show()
        return None

    def end(self) -> None:
        """Ask the runs to save and end, and wait for them."""
        for process in self._slots:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for slot, process in enumerate(self._slots):
            if process is not None:
                self._ended(self._cell_of.pop(slot), process.wait())
                self._slots[slot] = None

    def _start(self, slot: int, cell: Cell) -> None:
        self.folder.check()
        argv = command(cell, self._devices[slot % len(self._devices)])
        log = log_path(self.grid, cell)
        self._log_starts[cell] = log.stat().st_size if log.exists() else 0
        self._slots[slot] = start(argv, log, self._threads)
        self._cell_of[slot] = cell
        self.states[cell] = RUNNING
        self.show()

    def _ended(self, cell: Cell, code: int) -> None:
        if code and self.stop.signal:
            self.states[cell] = WAITING
        else:
            self.ended(cell, code, log_path(self.grid, cell), self._log_starts[cell])
        self.show()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _holder(folder: Path) -> str | None:
    """Why the run folder cannot be written now; None if it can."""
    try:
        with FolderLock() as lock:
            if folder.is_dir():
                lock.acquire(folder)
    except FileSystemError as error:
        return str(error).split(";")[0]
    return None
