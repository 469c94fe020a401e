"""Signals that ask a program to stop."""

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ClassVar

from utils.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopped

#: Ctrl-C; what `kill`, Slurm and torchrun send; what Slurm's --signal=USR1 sends ahead of the limit; a closed terminal.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)


def exit_code(number: int) -> int:
    """The exit code of a program that this signal stopped."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED


def end_at_once(number: int) -> None:
    """End the process as one that this signal stopped, wherever its threads are."""
    with contextlib.suppress(OSError, ValueError):
        if os.name == "nt" or select.select([], [2], [], 0)[1]:  # a full pipe must not keep it
            os.write(2, f"stopped by {signal.Signals(number).name}; nothing was left to save\n".encode())
    os._exit(exit_code(number))


@contextlib.contextmanager
def ended_at_once() -> Iterator[None]:
    """While in this context, in the main thread, a signal that asks to stop ends the process at once.

    Python calls a handler between two instructions of its own, and so not while a library waits in C++. The number of a
    signal is written to a descriptor all the same, and a thread reads it there.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)

    def watch() -> None:
        while numbers := os.read(read, 1):
            if numbers[0] in STOP_SIGNALS:
                end_at_once(numbers[0])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        watcher.join()
        os.close(read)


class Handlers:
    """While in this context, calls `handle` with the number of each signal in STOP_SIGNALS that comes.

    A signal that the process ignored from the start (SIGHUP under nohup) stays ignored, and one that a library handles
    is left to it. Outside the main thread, where Python cannot handle signals, the context does nothing. On entering it
    raises an earlier request that was lost.
    """

    came: ClassVar[float] = math.inf  #: when the program got its first signal, by time.monotonic()

    def __init__(self, handle: Callable[[int], None]) -> None:
        self._handle = handle
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Handlers":
        Stopped.check()
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._called)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _called(self, number: int, frame: FrameType | None) -> None:
        Handlers.came = min(Handlers.came, time.monotonic())
        self._handle(number)


class StopRequest(Handlers):
    """A context manager that remembers the first signal that asks to stop, and interrupts nothing."""

    def __init__(self) -> None:
        super().__init__(self._remember)
        self.signal = 0  # none

    def _remember(self, number: int) -> None:
        self.signal = self.signal or number
