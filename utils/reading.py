"""One way of turning what a library raises over a stranger's file into an error of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from utils.errors import Stopped, UserError
from utils.limits import out_of_memory
from utils.text import visible


@contextmanager
def told_as(kind: type[UserError], source: str, what: str, advice: str = "") -> Iterator[None]:
    """Whatever Exception comes out of the block comes out as `kind`: "<source>: <what> (<reason>)<advice>".

    Libraries raise all sorts of things over files that were made to hurt them, and no list of those is complete. An
    error of ours passes as it is, and so does a request to stop, which is no Exception. Where memory ran out the file
    is not to blame, and the message does not say `what`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        Stopped.check()  # else it may be what a library made of the request
        if out_of_memory(error):
            raise kind(f"{source}: there is not enough memory for it; free some, or use a larger machine") from error
        raise kind(f"{source}: {what} ({reason_of(error)}){advice}") from error


def reason_of(error: Exception) -> str:
    """What an exception says, in one short line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, KeyError | IndexError | RecursionError | AssertionError) or not text.strip():
        text = f"{type(error).__name__} {text}".strip()
    return visible(text, 300)
