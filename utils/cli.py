"""Ends the command-line programs: an error is one line on stderr and an exit code."""

import argparse
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from utils.errors import EXIT_INTERRUPTED, ConfigError, FileSystemError, Stopped, UserError
from utils.limits import as_user_error
from utils.output import complain, set_up
from utils.stopping import STOP_SIGNALS, Handlers, exit_code
from utils.text import visible

LONGEST_LINE = 2000  # characters of a line of a traceback


class OneLineParser(argparse.ArgumentParser):
    """A parser with --debug. A wrong command line is a ConfigError; --help has the usage."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def whole_number(low: int, high: int = 2**63 - 1) -> Callable[[str], int]:
    """The `type` of an argument that is a whole number from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            wanted = f"of {low} or more" if value < low and high == 2**63 - 1 else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"must be a whole number {wanted}, got {text!r}")
        return value

    return read


def run_program(main: Callable[[], None], arguments: Sequence[str]) -> int:
    """Run `main` and return the process's exit code. An error becomes one line, with a traceback under --debug.

    The exit code does not depend on whether the output could be printed.
    """
    set_up()
    # Other users must not be able to change the files, whatever the umask.
    os.umask(os.umask(0o077) | 0o002)
    Stopped.forget()
    Handlers.came = math.inf
    try:
        with _no_traceback_of_stopped(), Handlers(_stop):
            main()
            Stopped.check()
        return 0
    except (Exception, Stopped, KeyboardInterrupt) as error:
        message, code = _outcome(error)
        if "--debug" in arguments and not isinstance(error, Stopped):
            complain(*(line[:LONGEST_LINE] for line in traceback.format_exc().splitlines()))
        complain(visible(message))
        return code


def leave(code: int) -> NoReturn:
    """End the process with `code`; a later signal does not change it."""
    if sys.stdout is not None:
        sys.stdout.flush()  # which may wait for its reader, and so for a signal
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _outcome(error: BaseException) -> tuple[str, int]:
    """The message and the exit code for an error that ended a program."""
    if isinstance(error, Stopped):
        return str(error), error.exit_code
    try:
        Stopped.check()  # a library may have turned the request to stop into `error`
        found = error if isinstance(error, UserError) else as_user_error(error)
    except Stopped as stop:
        return str(stop), stop.exit_code
    if isinstance(error, KeyboardInterrupt):  # SIGINT outside the handlers
        return "interrupted; nothing was left to save", EXIT_INTERRUPTED
    if found is not None:
        return f"error: {found}", found.exit_code
    if isinstance(error, OSError):
        return f"error: {error}", FileSystemError.exit_code
    text = f"error: {type(error).__name__}: {error}"
    return text[:500] + (" ..." if len(text) > 500 else "") + " (--debug shows where)", 1


def _stop(number: int) -> NoReturn:
    Stopped.ask(exit_code(number), f"stopped by {signal.Signals(number).name}; nothing was left to save")


@contextmanager
def _no_traceback_of_stopped() -> Iterator[None]:
    """Print no traceback for a lost request to stop: the interpreter cannot pass it on, but it is raised again."""
    before = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if not isinstance(lost.exc_value, Stopped):
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
