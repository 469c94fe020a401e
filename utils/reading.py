"""The one way to turn a library's error over a stranger's file into a UserError."""

from collections.abc import Iterator
from contextlib import contextmanager

from utils.errors import Stopped, UserError
from utils.limits import out_of_memory
from utils.text import visible


@contextmanager
def errors_as(kind: type[UserError], source: str, what: str, advice: str = "") -> Iterator[None]:
    """Turn every Exception of the block into `kind`: "<source>: <what> (<reason>)<advice>".

    Over hostile files libraries raise errors of any type, and no list of types is complete. A UserError passes
    unchanged, and so does a request to stop, which is not an Exception. If memory ran out, the file is not to blame,
    and the message does not contain `what`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        Stopped.check()  # a library may have turned the request into `error`
        if out_of_memory(error):
            raise kind(f"{source}: there is not enough memory for it; free some, or use a larger machine") from error
        raise kind(f"{source}: {what} ({reason_of(error)}){advice}") from error


def reason_of(error: Exception) -> str:
    """An exception's message in one short line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, KeyError | IndexError | RecursionError | AssertionError) or not text.strip():
        text = f"{type(error).__name__} {text}".strip()
    return visible(text, 300)
