"""One way to print: what cannot be shown is escaped, and where nobody listens any more the work goes on.

`set_up` puts streams of its own in the place of the interpreter's, so that whatever prints (log lines, progress bars,
argparse, a library's warning, the interpreter as it shuts down) prints through them.
"""

import errno
import io
import os
import sys
import time
from typing import Any, TextIO

from utils.text import escaped, shown

LONGEST = 20_000  # characters of a line; a table of a thousand classes has rows of six thousand
_PAUSE = 0.01  # seconds until a pipe that is full is tried again


def say(*lines: str) -> None:
    """Print each of `lines` on stdout. A line stays one, whatever is in it: a newline too is shown as an escape."""
    _print(sys.stdout, lines)


def complain(*lines: str) -> None:
    """Print each of `lines` on stderr, as `say` does."""
    _print(sys.stderr, lines)


def to_terminal(stream: TextIO | None) -> Any:
    """`stream` for what a program draws with control characters of its own making, such as a progress bar."""
    return _Drawing(stream) if isinstance(stream, _Stream) else stream


def _print(stream: TextIO | None, lines: tuple[str, ...]) -> None:
    if stream is not None:
        stream.write("".join(f"{shown(line, LONGEST)}\n" for line in lines))
        stream.flush()


def set_up() -> None:
    """Make sure that descriptors 0 to 2 are open, and print through streams that never fail.

    A descriptor that the process was started without would be the number of the next file that it opens, and what is
    printed would be written into that. Streams that are not the interpreter's own (a notebook's, a test's) stay.
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
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, and so this one
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
    """What the interpreter's stream writes to. What cannot be written, since the reader has gone, the terminal is
    closed or the disk full, is dropped: it is no reason for the work to end."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def write(self, data: Any) -> int:
        try:
            while (count := self._raw.write(data)) is None:  # it does not block, and is full for now
                time.sleep(_PAUSE)
        except (OSError, ValueError):
            return len(data)
        return int(count)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def close(self) -> None:
        """Leaves the descriptor open, as the interpreter does with its own streams."""


class _Stream(io.TextIOWrapper):
    """Text on its way to a terminal or file. Control characters but for newline and tab become visible escapes."""

    def write(self, text: str, /) -> int:
        self.draw(escaped(text, but="\n\t"))
        return len(text)

    def draw(self, text: str) -> None:
        super().write(text)


class _Drawing:
    """A `_Stream` as it is but for `write`, which lets control characters through."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.draw(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
