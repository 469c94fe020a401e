"""Zips of ours or a stranger's, in memory or in a file: an .npz, a checkpoint."""

import io
import zipfile
from collections.abc import Iterable
from typing import Any

from utils.plain_pickle import malformed
from utils.text import visible

LARGEST_DIRECTORY = 1 << 20  # bytes of the list of entries: about ten thousand of them


class _Guarded(io.BytesIO):
    """The bytes of a zip. A directory that is too long is refused before it is read."""

    opening = True

    def read(self, size: Any = -1) -> bytes:
        _check_directory(self.opening, size)
        return super().read(size)


class GuardedFile(io.FileIO):
    """As `_Guarded`, of a file."""

    opening = True

    def read(self, size: Any = -1) -> bytes:
        _check_directory(self.opening, size)
        return super().read(size) or b""


def _check_directory(opening: bool, size: Any) -> None:
    if opening and size is not None and size > LARGEST_DIRECTORY:
        malformed(f"its list of entries has more than {LARGEST_DIRECTORY:,} bytes")


def open_zip(data: bytes | GuardedFile) -> zipfile.ZipFile:
    """A zip in memory or in a file, after a check that no two entries have equivalent names.

    Of two entries with one name, readers choose differently. Some ignore case, and numpy takes `images` for
    `images.npy`.

    Raises:
        MalformedError: two names are equivalent, or the directory is too long.
        Exception: zipfile raises any type over a damaged zip.
    """
    file = data if isinstance(data, GuardedFile) else _Guarded(data)
    archive = zipfile.ZipFile(file)
    file.opening = False
    seen: dict[str, str] = {}
    for name in archive.namelist():
        key = name.casefold().removesuffix(".npy")
        if key in seen:
            malformed(f"two entries under one name, {shown([seen[key], name])}")
        seen[key] = name
    return archive


def shown(names: Iterable[object], most: int = 8) -> str:
    """The first `most` names from a stranger's file in one line, and the number of the others."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return (", ".join(repr(visible(_text(name), 60)) for name in every[:most]) or "nothing") + more


def _text(name: object) -> str:
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    return text if isinstance(text, str) else f"{type(text).__name__} {text}"
