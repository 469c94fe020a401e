"""Signals that ask a program to stop."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from utils.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopped

#: Ctrl-C; what `kill`, Slurm and torchrun send; what Slurm's --signal=USR1 sends ahead of the limit; a closed terminal.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)


def exit_code(number: int) -> int:
    """The exit code of a program that this signal stopped."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED


class Handlers:
    """While in this context, calls `handle` with the number of each signal in STOP_SIGNALS that comes.

    A signal that the process ignored from the start (SIGHUP under nohup) stays ignored, and one that a library handles
    is left to it. Outside the main thread, where Python cannot handle signals, the context does nothing. On entering it
    raises an earlier request that was lost.
    """

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
        self._handle(number)


class StopRequest(Handlers):
    """A context manager that remembers the first signal that asks to stop, and interrupts nothing."""

    def __init__(self) -> None:
        super().__init__(self._remember)
        self.signal = 0  # none

    def _remember(self, number: int) -> None:
        self.signal = self.signal or number
