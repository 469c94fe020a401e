"""Turns errors of Python and torch into UserErrors: out of memory, numbers that are too large, a failed GPU."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from utils.errors import ConfigError, DataError, ProcessError, UserError

_MEMORY = re.compile("out of memory|not enough memory|an(?:'|no)t allocate memory|ALLOC_FAILED|bad_alloc")
_ONE_VALUE = re.compile("Expected more than 1 (?:value per channel|spatial element) when training")
_TOO_LARGE = re.compile("overflow|negative dimension|out of range|too large", re.IGNORECASE)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error`, of any type, says that memory of the machine or of a GPU ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error))))


@contextmanager
def memory_for_data() -> Iterator[None]:
    """Turn out-of-memory errors in the context into DataErrors; also a decorator."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not out_of_memory(error):
            raise
        raise DataError(
            f"out of memory ({_short(error)}): the data are too large for this machine; take fewer of them, or end "
            "what else runs here"
        ) from error


def as_user_error(error: BaseException) -> UserError | None:
    """The UserError for an error of Python or torch, or None if the program itself is at fault."""
    text = str(error)
    if out_of_memory(error):
        return ConfigError(
            f"out of memory ({_short(error)}): lower arch.args.width or data_loader.args.batch_size, or end what else "
            "uses this memory; checkpoints are as they were"
        )
    if isinstance(error, RuntimeError) and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ConfigError(f"torch cannot compile this network here ({_short(error)}); set trainer.compile=false")
    if isinstance(error, ValueError) and _ONE_VALUE.match(text):
        return ConfigError(
            "arch.args.norm: a norm has a single value to normalise over; raise data_loader.args.image_size, or "
            "data_loader.args.batch_size where a batch has one image, or take another norm"
        )
    if isinstance(error, RuntimeError) and text.startswith("CUDA error"):
        return ProcessError(f"the GPU failed ({_short(error)}); the newest checkpoint is whole: go on with -r auto")
    if isinstance(error, RuntimeError) and "deterministic" in text:
        return ConfigError(f"torch has no deterministic kernel ({_short(error)}); set trainer.deterministic=false")
    if isinstance(error, RecursionError):
        return ConfigError("what was given is nested too deeply; take levels out")
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return ProcessError("the system gives this process no more threads; see ulimit -u, or end what else runs here")
    if isinstance(error, OverflowError) or (isinstance(error, RuntimeError | TypeError) and _TOO_LARGE.search(text)):
        return ConfigError(
            f"a setting is too large to compute with ({_short(error)}); see arch.args, data_loader.args, "
            "optimizer.args and lr_scheduler.args"
        )
    return None


def _short(error: BaseException) -> str:
    """The first sentence of an error; torch appends locations in its C++ code."""
    first = str(error).strip().replace(":\n", ": ").partition("\n")[0].partition("\\n")[0]
    return re.sub(r"^\[enforce fail[^]]*\] |\. (Tried|GPU|Of the).*", "", first)[:200] or type(error).__name__
