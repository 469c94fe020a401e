"""How the command-line programs end: one line on stderr and the exit code of its kind."""

import sys
import traceback
from collections.abc import Callable

from utils.errors import EXIT_INTERRUPTED, Stopped, UserError


def run_program(main: Callable[[], None], debug: bool) -> int:
    """Run `main` and return the process's exit code; faults become one line, with a traceback under `debug`."""
    try:
        main()
        return 0
    except UserError as error:
        return _fail(f"error: {_one_line(error)}", error.exit_code, debug)
    except Stopped as stop:
        return _fail(_one_line(stop), stop.exit_code, debug=False)
    except KeyboardInterrupt:
        return _fail("interrupted before the first step; nothing to save", EXIT_INTERRUPTED, debug)
    except OSError as error:
        return _fail(f"error: {_one_line(error)}", 5, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(message + "\n")
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
