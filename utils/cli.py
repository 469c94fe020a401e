"""How the command-line programs end: one line on stderr and the exit code of its kind."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from utils.errors import EXIT_INTERRUPTED, ConfigError, FileSystemError, Stopped, UserError


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong command line as any other fault; --help has the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def run_program(main: Callable[[], None], arguments: Sequence[str]) -> int:
    """Run `main` and return the process's exit code; faults become one line, with a traceback under --debug."""
    debug = "--debug" in arguments
    try:
        main()
        sys.stdout.flush()
        return 0
    except UserError as error:
        return _fail(f"error: {error}", error.exit_code, debug)
    except Stopped as stop:
        return _fail(str(stop), stop.exit_code, debug=False)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was left to save", EXIT_INTERRUPTED, debug)
    except BrokenPipeError:  # the reader of stdout has gone, as in `--check | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"error: {error}", FileSystemError.exit_code, debug)
    except Exception as error:
        text = f"error: {type(error).__name__}: {error}"
        return _fail(text[:500] + (" ..." if len(text) > 500 else "") + " (--debug shows where)", 1, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    printable = "".join(char if char.isprintable() else " " for char in message)
    sys.stderr.write(" ".join(printable.split()) + "\n")
    return code
