"""Imported by each program before all else: until it has handlers of its own, a signal that asks it to stop ends it at
once, with the exit code of that and no traceback."""

import contextlib
import os
import signal
import sys
from types import FrameType

from utils.stopping import STOP_SIGNALS, exit_code


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"stopped by {signal.Signals(number).name}; nothing was left to save\n".encode())
    os._exit(exit_code(number))


def _is_ours(main: object) -> bool:
    """Whether the process runs a program of this folder, and has not imported one of them as a test does."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    return os.path.dirname(os.path.abspath(getattr(main, "__file__", None) or "/")) == home  # noqa: PTH100, PTH120


if _is_ours(sys.modules["__main__"]):
    for _number in STOP_SIGNALS:
        if signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, _end)
