"""The cells of a grid as processes of this machine, so many at once."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from grids.plan import Cell, Grid
from grids.progress import FINISHED, RUNNING, WAITING, log_path
from grids.running import GridRun, command, last_line, shell_code, start
from utils.errors import FileSystemError
from utils.lock import FolderLock

PATIENCE = 120.0  # seconds for a run that a killed grid left behind to save and end


class LocalRun(GridRun):
    """Runs `jobs` cells at a time, cores and devices shared out among them. When it stops, they save and end."""

    def __init__(self, grid: Grid, jobs: int, devices: Sequence[str | None], show: Callable[[str], None]) -> None:
        super().__init__(grid, show)
        self._devices = devices
        self._slots: list[subprocess.Popen | None] = [None] * jobs
        self._cell_of: dict[int, Cell] = {}  # by slot
        self._threads = max(1, _cores() // jobs)

    def begin(self) -> None:
        """Wait until no other process writes a run that is to go on; those that a killed grid left behind are on their
        way to save and end. A signal ends the wait, and so does a run that does not end: its cell then says so.
        """
        deadline = time.monotonic() + PATIENCE
        for cell in self.grid.cells:
            while self.states[cell] == WAITING and _in_use(cell.folder):
                if self.signal or time.monotonic() > deadline:
                    return
                time.sleep(self.pause)

    def step(self) -> bool:
        for slot, process in enumerate(self._slots):
            if process is not None and process.poll() is not None:
                self._slots[slot] = None
                self._ended(self._cell_of.pop(slot), process.returncode)
        waiting = [cell for cell in self.grid.cells if self.states[cell] == WAITING]
        for slot, process in enumerate(self._slots):
            if process is None and waiting:
                self._start(slot, waiting.pop(0))
        busy = any(process is not None for process in self._slots)
        if busy:
            self.show_if_due()
        return busy

    def end(self) -> None:
        """Ask what still runs to save and end, and wait for it."""
        for process in self._slots:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for slot, process in enumerate(self._slots):
            if process is not None:
                self._ended(self._cell_of.pop(slot), process.wait())
                self._slots[slot] = None

    def _start(self, slot: int, cell: Cell) -> None:
        argv = command(cell, self._devices[slot % len(self._devices)])
        self._slots[slot] = start(argv, log_path(self.grid, cell), self._threads)
        self._cell_of[slot] = cell
        self.states[cell] = RUNNING
        self.show()

    def _ended(self, cell: Cell, code: int) -> None:
        if code == 0:
            self.states[cell] = FINISHED
        elif self.signal:
            self.states[cell] = WAITING
        else:
            self.fail(cell, shell_code(code), last_line(log_path(self.grid, cell)))
        self.show()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_use(folder: Path) -> bool:
    try:
        with FolderLock() as lock:
            if folder.is_dir():
                lock.acquire(folder)
    except FileSystemError:
        return True
    return False
