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
    """What a program that was stopped by this signal ends with."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED


class Handlers:
    """Calls `handle` with the number of each signal in `signals` that comes while in this context.

    A signal that the process was started to ignore (SIGHUP under nohup) stays ignored. Off the main thread, where
    Python has no say over signals, nothing happens. A request that came before and was lost is raised on entering.
    """

    def __init__(self, handle: Callable[[int], None], signals: tuple[int, ...] = STOP_SIGNALS) -> None:
        self._handle, self._signals = handle, signals
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Handlers":
        Stopped.check()
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._called)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _called(self, number: int, frame: FrameType | None) -> None:
        self._handle(number)


class StopRequest(Handlers):
    """Remembers the first signal that asks to stop, so that what is going on is never cut short; a context manager."""

    def __init__(self) -> None:
        super().__init__(self._remember)
        self.signal = 0  # none

    def _remember(self, number: int) -> None:
        self.signal = self.signal or number
