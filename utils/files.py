"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.errors import ConfigError, FileSystemError

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")


def user_path(text: str) -> Path:
    """The path that a user wrote, `~` expanded. Raises ConfigError where there is no such path."""
    try:
        if "\0" in text:
            raise RuntimeError("it holds a NUL character")
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{text!r} is no path: {error}") from error


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: it cannot be read, it is no regular file (a FIFO, a device, a folder: none is waited for), or it is
            larger than `limit` bytes. `strerror` says which.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        size = min(status.st_size, limit)
        data = file.read(size + 1)  # not the limit: that much would be asked of the system at once
        if len(data) > size:  # it has grown
            data += file.read(limit + 1 - len(data))
        if status.st_size > limit or len(data) > limit:
            raise OSError(errno.EFBIG, f"it is larger than {_in_units(limit)}", str(path))
    return data


def _in_units(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.3g} {unit}"
    return f"{size} bytes"


#: Bytes to write, or a function of them, which is called when it is their turn.
Piece = bytes | memoryview | Callable[[], bytes]


def write_atomically(path: Path, *pieces: Piece) -> None:
    """Write `pieces` one after the other to `path`, through a synced temporary file in the same folder and os.replace.

    What was written is read back and compared before it takes the place of what was there.

    Raises:
        FileSystemError: the file cannot be written (disk full, no permission); names the path and the bytes needed.
            The temporary file is removed, and what was at `path` stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
        with open(descriptor, "w+b", buffering=0) as file:
            for piece in pieces:
                _append(file, memoryview(piece() if callable(piece) else piece))
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        size = sum(len(piece() if callable(piece) else piece) for piece in pieces)
        raise FileSystemError(f"cannot write {path} ({size:,} bytes needed): {error.strerror or error}") from error


def temporary_of(path: Path) -> str | None:
    """The name of the file that `path` is a temporary form of, if it is one that `write_atomically` made."""
    match = _TEMPORARY.fullmatch(path.name)
    return match[1] if match else None


def _append(file: io.FileIO, data: memoryview) -> None:
    """Write, sync and compare; the sync waits for the disk, and so goes on beside the comparison."""
    start = file.tell()
    _write_all(file, data)
    with ThreadPoolExecutor(1) as beside:
        synced = beside.submit(os.fsync, file.fileno())
        file.seek(start)
        _check_written(file, data)
        synced.result()


def _write_all(file: io.RawIOBase, data: memoryview) -> None:
    while data:
        data = data[file.write(data) or 0 :]


def _check_written(file: io.FileIO, data: memoryview) -> None:
    found = bytearray(min(len(data), 1 << 18))  # a bytearray is compared as a whole, a memoryview number by number
    while data:
        count = file.readinto(found) if len(data) >= len(found) else file.readinto(memoryview(found)[: len(data)])
        if not count or found[:count] != data[:count]:
            raise OSError(errno.EIO, "what was read back is not what was written")
        data = data[count:]


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces; `progress` is told how many bytes each has."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()
