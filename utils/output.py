"""The one way to print: characters that cannot be shown are escaped, and a lost reader does not stop the work.

`set_up` replaces the interpreter's streams, so that all output goes through ours: log lines, progress bars, argparse, a
library's warnings, and the interpreter's own at shutdown.
"""

import errno
import io
import os
import select
import sys
import time
from typing import Any, TextIO

from utils.stopping import Handlers
from utils.text import as_line, escaped

LONGEST = 20_000  # characters of a line; a table of a thousand classes has rows of six thousand
_PAUSE = 0.05  # seconds until a full pipe is tried again
_PATIENCE = 1.0  # seconds after a signal in which a reader who lags may still take what is said
_AT_ONCE = getattr(select, "PIPE_BUF", 512)  # bytes; as many fit into a pipe that is said to have room


def say(*lines: str) -> None:
    """Print each of `lines` on stdout as one line: a newline within it becomes an escape, too."""
    _print(sys.stdout, lines)


def complain(*lines: str) -> None:
    """Print each of `lines` on stderr, as `say` does."""
    _print(sys.stderr, lines)


def to_terminal(stream: TextIO | None) -> Any:
    """`stream` without the escaping, for a program's own control characters, as in a progress bar."""
    return _Drawing(stream) if isinstance(stream, _Stream) else stream


def _print(stream: TextIO | None, lines: tuple[str, ...]) -> None:
    if stream is not None:
        stream.write("".join(f"{as_line(line, LONGEST)}\n" for line in lines))
        stream.flush()


def set_up() -> None:
    """Make sure that descriptors 0 to 2 are open, and print through streams that never fail.

    If the process was started without one of them, the next file that it opens would get that number, and prints would
    go into the file. Streams that are not the interpreter's own (a notebook's, a test's) stay.
    """
    for number in range(3):
        _make_sure_of(number)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _safe(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _safe(sys.stderr, 2)


def _make_sure_of(number: int) -> None:
    try:
        os.fstat(number)
    except OSError as error:
        if error.errno != errno.EBADF:
            return
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so usually this one
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def _safe(stream: TextIO | None, number: int) -> "_Stream":
    buffer: Any = getattr(stream, "buffer", None) or io.FileIO(number, "wb", closefd=False)
    return _Stream(
        io.BufferedWriter(_Raw(getattr(buffer, "raw", buffer))),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        newline=None if os.name == "nt" else "\n",
        line_buffering=number == 2 or getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


class _Raw(io.RawIOBase):
    """The raw stream below the interpreter's. It drops output that cannot be written, because the reader has gone, the
    terminal is closed or the disk is full: that must not end the work. It waits for a reader who lags, but once a
    signal has asked the program to stop, no longer than _PATIENCE: a write would block for ever, and so would the stop.
    Closing it leaves the descriptor open, as with the interpreter's own streams."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def write(self, data: Any) -> int:
        try:
            while self._is_read():
                count = self._raw.write(data[:_AT_ONCE])
                if count is not None:
                    return int(count)
                time.sleep(_PAUSE)  # a full pipe that does not block
        except (OSError, ValueError):
            pass
        return len(data)

    def _is_read(self) -> bool:
        """Wait until there is room. False if there is none and a signal came."""
        if os.name == "nt":  # where select knows sockets alone
            return True
        while not select.select([], [self._raw], [], _PAUSE)[1]:
            if time.monotonic() > Handlers.came + _PATIENCE:
                return False
        return True

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())


class _Stream(io.TextIOWrapper):
    """A text stream that writes control characters, except newline and tab, as visible escapes."""

    def write(self, text: str, /) -> int:
        self.draw(escaped(text, but="\n\t"))
        return len(text)

    def draw(self, text: str) -> None:
        super().write(text)


class _Drawing:
    """A `_Stream` whose `write` lets control characters through."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.draw(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
