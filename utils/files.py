"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.beside import beside
from utils.errors import ConfigError, FileSystemError, Stopped
from utils.once import tell_once
from utils.text import control_character

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")


def user_path(text: str) -> Path:
    """The path that a user wrote, `~` expanded. Raises ConfigError where there is no such path."""
    try:
        found = control_character(text)
        if found is not None:
            raise RuntimeError(f"it must not hold the control character {found}")
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{text!r} is no path: {error}") from error


def cache_home() -> Path | None:
    """The folder for the user's caches; None where there is none, as for a container's user that has no name."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: it cannot be read, it is no regular file (a FIFO, a device, a folder: none is waited for), or it is
            larger than `limit` bytes. `strerror` says which.
    """
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= limit else b""  # room is made for as much as is asked for
        while size < len(data) <= limit and (more := file.read(1 << 20)):  # it grows, or is one of those without a size
            data += more
        if size > limit or len(data) > limit:
            raise OSError(errno.EFBIG, f"it is larger than {_in_units(limit)}", str(path))
    return data


def read_end(path: Path, count: int) -> tuple[bytes, int]:
    """The last `count` bytes of a regular file and its size. Raises OSError as `read_file` does."""
    with _open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - count))
        return file.read(count), size


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[io.BufferedReader]:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield file


def _in_units(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.3g} {unit}"
    return f"{size} bytes"


#: Bytes to write, or a function of them, which is called when it is their turn.
Piece = bytes | memoryview | Callable[[], bytes]


def write_atomically(path: Path, *pieces: Piece, folder: int | None = None) -> None:
    """Write `pieces` one after the other to `path`, through a synced temporary file in the same folder and os.replace.

    What was written is read back and compared before it takes the place of what was there. Given the descriptor of
    `folder`, the file goes there under the name that `path` ends with, wherever the rest of `path` leads by now.

    Raises:
        FileSystemError: the file cannot be written (disk full, no permission); names the path and the bytes needed.
            The temporary file is removed, and what was at `path` stays.
    """
    Stopped.check()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    source, target = (temporary, path) if folder is None else (Path(temporary.name), Path(path.name))
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(source, flags, 0o666, dir_fd=folder)  # less the umask
        with open(descriptor, "w+b", buffering=0) as file:
            for piece in pieces:
                _append(file, memoryview(piece() if callable(piece) else piece))
        os.replace(source, target, src_dir_fd=folder, dst_dir_fd=folder)
        _sync_folder(path.parent, folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(source, dir_fd=folder)
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
    with beside(os.fsync, file.fileno()) as synced:
        file.seek(start)
        _check_written(file, data)
        synced()


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


def _sync_folder(path: Path, folder: int | None) -> None:
    """Some file systems cannot sync a folder (vboxsf, CIFS, some of FUSE). Nothing is lost by that but the certainty
    that a power cut in the next seconds leaves the new name."""
    if os.name == "nt":  # Windows cannot open a folder to sync it
        return
    try:
        descriptor = os.open(path, os.O_RDONLY) if folder is None else folder
        try:
            os.fsync(descriptor)
        finally:
            if folder is None:
                os.close(descriptor)
    except OSError as error:
        why = error.strerror or error
        tell_once("sync", f"the folder {path} cannot be synced ({why}); its files are, and the work goes on")


def sha256_of_file(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces; `progress` is told how many bytes each has."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()
