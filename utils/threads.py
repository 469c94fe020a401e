"""Runs a function in a thread beside other work."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def in_thread(function: Callable[..., T], *arguments: Any) -> Iterator[Callable[[], T]]:
    """Call `function` in a thread while the context runs. The yielded function waits for it and returns its value, or
    raises its error. If no thread can be started, that function calls `function` itself."""
    with ThreadPoolExecutor(1) as pool:
        try:
            wait: Callable[[], T] = pool.submit(function, *arguments).result
        except RuntimeError:  # the system refuses another thread
            wait = partial(function, *arguments)
        yield wait
