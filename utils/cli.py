"""How the command-line programs end: one line on stderr and the exit code of its kind."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from utils.errors import EXIT_INTERRUPTED, ConfigError, FileSystemError, Stopped, UserError
from utils.stopping import STOP_SIGNALS, Handlers, exit_code
from utils.text import visible


class OneLineParser(argparse.ArgumentParser):
    """Has --debug, and reports a wrong command line as any other fault; --help has the usage."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def run_program(main: Callable[[], None], arguments: Sequence[str]) -> int:
    """Run `main` and return the process's exit code; faults become one line, with a traceback under --debug."""
    debug = "--debug" in arguments
    # Nothing a program writes is for others on the machine to change, whatever the umask.
    os.umask(os.umask(0o077) | 0o002)
    try:
        with Handlers(_stop):
            main()
            sys.stdout.flush()
        return 0
    except UserError as error:
        return _fail(f"error: {error}", error.exit_code, debug)
    except Stopped as stop:
        return _fail(str(stop), stop.exit_code, debug=False)
    except KeyboardInterrupt:  # before or after the handlers had their turn
        return _fail("interrupted; nothing was left to save", EXIT_INTERRUPTED, debug)
    except BrokenPipeError:  # the reader of stdout has gone, as in `--check | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"error: {error}", FileSystemError.exit_code, debug)
    except Exception as error:
        text = f"error: {type(error).__name__}: {error}"
        return _fail(text[:500] + (" ..." if len(text) > 500 else "") + " (--debug shows where)", 1, debug)


def leave(code: int) -> NoReturn:
    """End the process with `code`; a signal that comes now is too late to change it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _stop(number: int) -> NoReturn:
    raise Stopped(exit_code(number), f"stopped by {signal.Signals(number).name}; nothing was left to save")


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(visible(message) + "\n")
    return code
