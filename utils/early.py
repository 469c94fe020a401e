"""Each program imports this module first, before torch.

Until the program has its own handlers, a signal that asks it to stop ends it at once, with the signal's exit code and
without a traceback. And its threads look for work no longer than is good for it and for others.
"""

import os
import signal
import sys

PROGRAMS = ("train", "test", "predict", "export", "grid", "report", "prepare_data")

#: How often a thread of libgomp (torch's on Linux) looks for work before it sleeps. It reads this when torch is loaded.
#: A bound suits both an idle machine and a shared one (docs/performance.md, benchmarks/threads.py).
SPINS = "100000"


def _is_ours(main: object) -> bool:
    """Whether `main` is one of the programs, and not a test or a script that imports one."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    folder, name = os.path.split(os.path.abspath(getattr(main, "__file__", None) or "/"))  # noqa: PTH100
    return folder == home and name in [f"{program}.py" for program in PROGRAMS]


def _bound_spinning() -> None:
    """Set GOMP_SPINCOUNT, unless the user has said how threads wait."""
    if not any(name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") or name.startswith("KMP_") for name in os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def _drop_settings_of_tqdm() -> None:
    """Of tqdm's variables our bars heed TQDM_DISABLE alone. One that it cannot read would end it, and torch, which
    loads it, with an error."""
    for name in [name for name in os.environ if name.startswith("TQDM_") and name != "TQDM_DISABLE"]:
        del os.environ[name]


if _is_ours(sys.modules["__main__"]):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback out of the imports
    from utils.stopping import STOP_SIGNALS, end_at_once

    for _number in STOP_SIGNALS:
        if signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, lambda number, frame: end_at_once(number))
    _bound_spinning()
    _drop_settings_of_tqdm()
