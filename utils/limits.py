"""What errors of Python's and torch's own say to a user: too little memory, numbers that are too large, a GPU gone."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from utils.errors import ConfigError, DataError, ProcessError, UserError

_MEMORY = re.compile("out of memory|not enough memory|an(?:'|no)t allocate memory|ALLOC_FAILED|bad_alloc")
_TOO_LARGE = re.compile("overflow|negative dimension|out of range|too large", re.IGNORECASE)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that there is too little memory, of the machine or of a GPU, under whatever name."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error))))


@contextmanager
def memory_for_data() -> Iterator[None]:
    """Too little memory within this context, which also decorates functions, is a DataError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not out_of_memory(error):
            raise
        raise DataError(
            f"out of memory ({_gist(error)}): the data are too large for this machine; take fewer of them, or end "
            "what else runs here"
        ) from error


def in_our_terms(error: BaseException) -> UserError | None:
    """What an error that no part of ours raised is to a user, or None where it is a fault of the program's own."""
    text = str(error)
    if out_of_memory(error):
        return ConfigError(
            f"out of memory ({_gist(error)}): lower arch.args.width or data_loader.args.batch_size, or end what else "
            "uses this memory; checkpoints are as they were"
        )
    if isinstance(error, RuntimeError) and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ConfigError(f"torch cannot compile this network here ({_gist(error)}); set trainer.compile=false")
    if isinstance(error, RuntimeError) and text.startswith("CUDA error"):
        return ProcessError(f"the GPU failed ({_gist(error)}); the newest checkpoint is whole: go on with -r auto")
    if isinstance(error, RuntimeError) and "deterministic" in text:
        return ConfigError(f"there is no deterministic way ({_gist(error)}); set trainer.deterministic=false")
    if isinstance(error, RecursionError):
        return ConfigError("what was given is nested too deeply; take levels out")
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return ProcessError("the system gives this process no more threads; see ulimit -u, or end what else runs here")
    if isinstance(error, OverflowError) or (isinstance(error, RuntimeError | TypeError) and _TOO_LARGE.search(text)):
        return ConfigError(
            f"a setting is too large to compute with ({_gist(error)}); see arch.args, data_loader.args, "
            "optimizer.args and lr_scheduler.args"
        )
    return None


def _gist(error: BaseException) -> str:
    """The first sentence of an error: torch's go on with the places in its C++ that raised it."""
    first = str(error).strip().replace(":\n", ": ").partition("\n")[0].partition("\\n")[0]
    return re.sub(r"^\[enforce fail[^]]*\] |\. (Tried|GPU|Of the).*", "", first)[:200] or type(error).__name__
