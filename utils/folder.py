"""A folder that a program writes into, such that no write ends up elsewhere.

Folders are received, copied and moved, and a link with the name of one of our files may lead to a file of the user's.
So no link is followed. The folder is held by a descriptor, so that another folder in its place gets nothing.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from utils.errors import FileSystemError, FolderGoneError
from utils.files import Piece, write_atomically

#: Whether files can be opened relative to a descriptor. On Windows they cannot; there paths are checked first.
_DESCRIPTORS = hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY") and os.open in os.supports_dir_fd
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Folder:
    """The folder at `path`; as a context manager it is held.

    A held folder is the one that was at `path` when `hold` was called, and each write first checks that the path still
    leads to it. If it is not held, each call uses the folder that is at `path` then.

    All methods raise FolderGoneError if the path leads elsewhere, FileSystemError if a link or something that is not a
    regular file is in the way, and OSError for all else, unless they say otherwise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: A function that is called before each write; it may raise.
        self.before_write: Callable[[], None] = lambda: None
        self._descriptor: int | None = None
        self.identity: tuple[int, int] | None = None  # device and inode of the held folder

    @classmethod
    def of(cls, place: "Path | Folder") -> "Folder":
        return place if isinstance(place, Folder) else cls(place)

    def __str__(self) -> str:
        return str(self.path)

    def hold(self) -> "Folder":
        if self.identity is None:
            self._take(None if not _DESCRIPTORS else os.open(self.path, os.O_RDONLY | os.O_DIRECTORY))
        return self

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self.identity = None, None

    def __enter__(self) -> "Folder":
        return self.hold()

    def __exit__(self, *_: object) -> None:
        self.release()

    def check(self) -> None:
        """Raise FolderGoneError if the path no longer leads to the held folder."""
        if self.identity is not None:
            try:
                status = self.path.stat()
            except OSError:
                status = None
            if status is None or (status.st_dev, status.st_ino) != self.identity:
                raise FolderGoneError(
                    f"{self.path} is not the folder that this process works in any more: it was moved or removed, or "
                    "another was put in its place; nothing is written there. Move it back and start again"
                )
        self.before_write()

    # --- reading ---------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names of all entries, sorted; none if the folder is missing or unreadable."""
        try:
            return sorted(os.listdir(self.path if self._descriptor is None else self._descriptor))
        except (FileNotFoundError, PermissionError):
            return []

    def refuse_links(self, ours: Callable[[str], bool]) -> None:
        """Raise FileSystemError if an entry whose name is `ours` is a link or not a regular file."""
        for name in filter(ours, self.names()):
            self._look(name)

    def size(self, name: str) -> int | None:
        """The size of a regular file in bytes; None if there is no such file."""
        status = self._look(name)
        return None if status is None else status.st_size

    def read(self, name: str, limit: int) -> bytes | None:
        """The first `limit` bytes of a file; None if there is no such file."""
        try:
            with open(self._open(name, os.O_RDONLY), "rb") as file:
                return file.read(min(limit, os.fstat(file.fileno()).st_size))
        except FileNotFoundError:
            return None

    def tail(self, name: str, count: int) -> bytes:
        """The last `count` bytes of a file."""
        with open(self._open(name, os.O_RDONLY), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - count))
            return file.read(count)

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, name: str, *pieces: Piece, refuse: Callable[[], object] | None = None) -> None:
        """`write_atomically` in this folder. Raises FileSystemError for every problem with the file."""
        self.check()
        self._look(name)
        write_atomically(self.path / name, *pieces, folder=self._descriptor, refuse=refuse)

    def append(self, name: str) -> BinaryIO:
        """A file opened for appending, unbuffered; it is created if it is missing."""
        return self._file(self._own(name, os.O_WRONLY | os.O_APPEND), "ab")

    def update(self, name: str) -> BinaryIO:
        """A file opened for reading and writing, unbuffered; it is created if it is missing."""
        return self._file(self._own(name, os.O_RDWR), "r+b")

    def create(self, name: str) -> BinaryIO:
        """A new file, unbuffered. Raises FileExistsError."""
        self.check()
        return self._file(self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b")

    def remove(self, name: str) -> None:
        self.check()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._descriptor)

    def set_aside(self, name: str, ending: str) -> Path:
        """Rename a file to `name.ending`, or `name.ending-2` and so on: files that were set aside before stay."""
        self.check()
        taken, new, number = set(self.names()), f"{name}.{ending}", 1
        while new in taken:
            number += 1
            new = f"{name}.{ending}-{number}"
        os.rename(self._at(name), self._at(new), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        return self.path / new

    def below(self, name: str) -> "Folder":
        """The subfolder `name`, held; it is created if it is missing. The caller must release it."""
        self.check()
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._at(name), dir_fd=self._descriptor)
        self._look(name, stat.S_ISDIR, "folder")
        found = Folder(self.path / name)
        flags = os.O_RDONLY | _SAFE | getattr(os, "O_DIRECTORY", 0)
        found._take(os.open(self._at(name), flags, dir_fd=self._descriptor) if _DESCRIPTORS else None)
        return found

    def _take(self, descriptor: int | None) -> None:
        status = self.path.stat() if descriptor is None else os.fstat(descriptor)
        self._descriptor, self.identity = descriptor, (status.st_dev, status.st_ino)

    def _at(self, name: str) -> str | Path:
        return self.path / name if self._descriptor is None else name

    def _look(
        self, name: str, wanted: Callable[[int], bool] = stat.S_ISREG, kind: str = "regular file"
    ) -> os.stat_result | None:
        try:
            status = os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(status.st_mode):
            raise FileSystemError(
                f"{self.path / name} is a link, which may lead to someone else's file; remove it, or put the "
                f"{kind} itself there"
            )
        if not wanted(status.st_mode):
            raise FileSystemError(f"{self.path / name} is no {kind}; take it away")
        return status

    def _own(self, name: str, flags: int) -> int:
        """Open a file for writing in place. A file with other hard links is copied first, so that their contents
        stay."""
        self.check()
        descriptor = self._open(name, flags | os.O_CREAT)
        if os.fstat(descriptor).st_nlink > 1:
            os.close(descriptor)
            self.write(name, self.read(name, 1 << 40) or b"")
            descriptor = self._open(name, flags)
        return descriptor

    def _open(self, name: str, flags: int) -> int:
        before = self._look(name)
        descriptor = os.open(self._at(name), flags | _SAFE, 0o666, dir_fd=self._descriptor)
        status = os.fstat(descriptor)
        followed = not _DESCRIPTORS and before is not None and not os.path.samestat(before, status)
        if followed or not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise FileSystemError(f"{self.path / name} was exchanged while it was opened")
        return descriptor

    @staticmethod
    def _file(descriptor: int, mode: str) -> BinaryIO:
        return cast(BinaryIO, open(descriptor, mode, buffering=0))
