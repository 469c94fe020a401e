"""Runs a function in a thread beside other work."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def in_thread(function: Callable[..., T], *arguments: Any) -> Iterator[Callable[[], T]]:
    """Call `function` in a thread while the context runs. The yielded function waits for it and returns its value, or
    raises its error. If no thread can be started, that function calls `function` itself."""
    outcome: list[Callable[[], T]] = []

    def call() -> None:
        try:
            value = function(*arguments)
            outcome.append(lambda: value)
        except BaseException as error:
            failure = error
            outcome.append(lambda: _throw(failure))

    thread: threading.Thread | None = threading.Thread(target=call)
    try:
        thread.start()  # type: ignore[union-attr]
    except RuntimeError:  # the system refuses another thread
        thread = None

    def wait() -> T:
        if thread is not None:
            thread.join()
        elif not outcome:
            call()
        return outcome[0]()

    try:
        yield wait
    finally:
        if thread is not None:
            thread.join()


def _throw(error: BaseException) -> Any:
    raise error
