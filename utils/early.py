"""Each program imports this module first. Until the program has its own handlers, a signal that asks it to stop ends
it at once, with the signal's exit code and without a traceback."""

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
    """Whether `main` is a program of this folder, and not a test that imports one."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    return os.path.dirname(os.path.abspath(getattr(main, "__file__", None) or "/")) == home  # noqa: PTH100, PTH120


if _is_ours(sys.modules["__main__"]):
    for _number in STOP_SIGNALS:
        if signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, _end)
