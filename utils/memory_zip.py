"""Zips of ours or a stranger's, in memory or in a file: an .npz, a checkpoint."""

import io
import zipfile
from typing import Any

from utils.plain_pickle import malformed
from utils.text import quoted

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


def open_checked(data: bytes | GuardedFile) -> zipfile.ZipFile:
    """A zip in memory or in a file, of which numpy and torch may read each entry.

    Of two entries with one name, readers choose differently: some ignore case, and numpy takes `images` for
    `images.npy`. And zipfile unfolds bzip2 and LZMA without bound; numpy and torch write neither.

    Raises:
        MalformedError: two names are equivalent, an entry is compressed otherwise, or the directory is too long.
        Exception: zipfile raises any type over a damaged zip.
    """
    file = data if isinstance(data, GuardedFile) else _Guarded(data)
    archive = zipfile.ZipFile(file)
    file.opening = False
    seen: dict[str, str] = {}
    for entry in archive.infolist():
        name, key = entry.filename, entry.filename.casefold().removesuffix(".npy")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            malformed(f"{quoted([name])} is compressed in a way (method {entry.compress_type}) that is not read")
        if key in seen:
            malformed(f"two entries under one name, {quoted([seen[key], name])}")
        seen[key] = name
    return archive
