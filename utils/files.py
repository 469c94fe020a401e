"""Reads and writes files. After a crash during a write there is the old file or the new one, never half of one."""

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from utils.errors import ConfigError, FileSystemError, Stopped
from utils.once import warn_once
from utils.process import lives, machine, start_of
from utils.text import unfit_character
from utils.threads import in_thread

_ABANDONED = 3600.0  # seconds without a write after which a temporary file of an unknown process has no writer
_DEEPEST = 100  # folders within one another that are searched
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}(?:-([0-9a-f]{8})-(\d{1,10})-(\d*))?\.tmp")


def user_path(text: str) -> Path:
    """The path that a user wrote, with `~` expanded. Raises ConfigError if it is not a valid path."""
    try:
        found = unfit_character(text)
        if found is not None:
            raise RuntimeError(f"it must not hold {found}")
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{text!r} is no path: {error}") from error


def cache_home() -> Path | None:
    """The folder for the user's caches; None if there is none, as for a nameless user in a container."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: it cannot be read, is not a regular file (it never waits for a FIFO or a device), or is larger than
            `limit` bytes. `strerror` says which.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= limit else b""  # read() allocates as much as is requested
        while size < len(data) <= limit and (more := file.read(1 << 20)):  # the file grows, or does not report its size
            data += more
        if size > limit or len(data) > limit:
            raise OSError(errno.EFBIG, f"it is larger than {_in_units(limit)}", str(path))
    return data


def read_end(path: Path, count: int) -> tuple[bytes, int]:
    """The last `count` bytes of a regular file and its size. Raises OSError as `read_file` does."""
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - count))
        return file.read(count), size


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """A regular file, opened for reading: the one way to open a file that a user names.

    Raises OSError: it cannot be opened, or it is no regular file (a FIFO is not waited for).
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield file


def folders_below(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """`root` and the folders below it, in order, each with the names of what is no folder in it.

    Links to folders are not followed. What cannot be looked into is passed over, and so is what lies deeper than
    _DEEPEST: os.walk and Path.rglob call themselves for each level, and paths may not be of any length.
    """
    above = len(root.parts)
    for place, below, names in os.walk(root):
        folder = Path(place)
        below[:] = sorted(below) if len(folder.parts) - above < _DEEPEST else ()
        yield folder, names


def _in_units(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.3g} {unit}"
    return f"{size} bytes"


def make_place(out: Path) -> None:
    """Make the folder of `out`. Raises FileSystemError if `out` cannot be written, before the work for it begins."""
    if out.is_dir():
        raise FileSystemError(f"{out} is a folder; give the name of a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        # mkdir says "File exists" of a file where a folder should be
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise FileSystemError(f"cannot write {out}: {reason}; give another place") from error


#: Bytes to write, or a function that returns them, which is called when they are due.
Piece = bytes | memoryview | Callable[[], bytes]


def write_atomically(
    path: Path, *pieces: Piece, folder: int | None = None, refuse: Callable[[], object] | None = None
) -> None:
    """Write `pieces` one after the other to `path`, through a synced temporary file in the same folder and os.replace.

    The temporary file is read back and compared before it replaces the old file. Given the descriptor of `folder`, the
    file is written there under the last part of `path`, wherever the rest of `path` leads. If something lies there
    then, `refuse` is called, which raises if it must stay: it may have come while the pieces were made.

    Raises:
        FileSystemError: the file cannot be written (disk full, no permission); names the path and the bytes needed.
            The temporary file is removed, and the old file stays.
    """
    try:
        with staged(path, *pieces, folder=folder) as source:
            _put(source, path if folder is None else Path(path.name), folder, refuse)
            _sync_folder(path.parent, folder)
    except OSError as error:
        size = sum(len(piece() if callable(piece) else piece) for piece in pieces)
        raise FileSystemError(f"cannot write {path} ({size:,} bytes needed): {error.strerror or error}") from error


@contextlib.contextmanager
def staged(path: Path, *pieces: Piece, folder: int | None = None) -> Iterator[Path]:
    """A temporary file of `path` that holds `pieces`, synced, read back and compared, for the caller to rename; if it
    is still there at the end, it is removed. Raises OSError."""
    Stopped.check()
    temporary = _new_temporary(path, folder)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666, dir_fd=folder)  # less the umask
        with open(descriptor, "w+b", buffering=0) as file:
            for piece in pieces:
                _append(file, memoryview(piece() if callable(piece) else piece))
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)


def _put(source: Path, target: Path, folder: int | None, refuse: Callable[[], object] | None) -> None:
    if refuse is not None:
        try:
            os.link(source, target, src_dir_fd=folder, dst_dir_fd=folder)  # unlike a rename, it replaces nothing
        except OSError:  # something is there, or the file system has no links
            refuse()
        else:
            os.unlink(source, dir_fd=folder)
            return
    os.replace(source, target, src_dir_fd=folder, dst_dir_fd=folder)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A temporary file, for what is too large for `write_atomically`; at the end it is synced and becomes `path`, with
    the permissions `mode`, less the umask.

    An error removes it. Raises OSError.
    """
    temporary = _new_temporary(path)
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _new_temporary(path: Path, folder: int | None = None) -> Path:
    """A name for a temporary file of `path`, which says what process writes it. Those of `path` that killed processes
    left are removed."""

    def at(name: str) -> Path:
        return path.with_name(name) if folder is None else Path(name)

    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent if folder is None else folder):
            if temporary_of(Path(name)) == path.name:
                with contextlib.suppress(OSError):
                    if not _has_writer(name, os.stat(at(name), dir_fd=folder, follow_symlinks=False).st_mtime):
                        os.unlink(at(name), dir_fd=folder)
    pid = os.getpid()
    return at(f".{path.name}.{secrets.token_hex(4)}-{machine()}-{pid}-{start_of(pid)}.tmp")


def _has_writer(temporary: str, written: float) -> bool:
    match = _TEMPORARY.fullmatch(temporary)
    known = lives(match[2], int(match[3]), match[4]) if match and match[2] else None
    return time.time() - written <= _ABANDONED if known is None else known


def temporary_of(path: Path) -> str | None:
    """The name of the file that `path` is a temporary file of, or None if this module did not make it."""
    match = _TEMPORARY.fullmatch(path.name)
    return match[1] if match else None


def _append(file: io.FileIO, data: memoryview) -> None:
    """Write, sync and compare; sync and comparison run at the same time, since the sync waits for the disk."""
    start = file.tell()
    _write_all(file, data)
    with in_thread(os.fsync, file.fileno()) as synced:
        file.seek(start)
        _check_written(file, data)
        synced()


def _write_all(file: io.RawIOBase, data: memoryview) -> None:
    while data:
        data = data[file.write(data) or 0 :]


def _check_written(file: io.FileIO, data: memoryview) -> None:
    found = bytearray(min(len(data), 1 << 18))  # comparing bytearrays is fast; memoryviews compare byte by byte
    while data:
        count = file.readinto(found) if len(data) >= len(found) else file.readinto(memoryview(found)[: len(data)])
        if not count or found[:count] != data[:count]:
            raise OSError(errno.EIO, "what was read back is not what was written")
        data = data[count:]


def _sync_folder(path: Path, folder: int | None) -> None:
    """Sync a folder. Some file systems cannot (vboxsf, CIFS, some of FUSE), which is one warning: the new name may not
    survive a power cut in the next seconds."""
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
        warn_once("sync", f"the folder {path} cannot be synced ({why}); its files are, and the work goes on")


def sha256_of_file(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces; `progress` is called with the size of each piece.

    Raises OSError as `open_regular` does.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()
