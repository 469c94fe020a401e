"""A lock that gives a folder a single writer."""

import contextlib
import os
import re
from pathlib import Path
from typing import BinaryIO

from utils.errors import FileSystemError, Stopped
from utils.folder import Folder
from utils.once import warn_once
from utils.owner import NAME as OWNER_NAME
from utils.owner import Owner, host_name, live_owner

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
NAMES = (NAME, OWNER_NAME)
_HOLDER = re.compile(rb"(pid \d+ on [\w.-]+\n?)?")  # the only contents that we write into the file


class FolderLock:
    """The lock of the one process that writes a folder. A context manager, which releases it.

    It is an flock, so the kernel releases it however the process ends, and no stale lock remains. The file stays; while
    the lock is held, it contains the holder's process number. Where the file system has no locks, a file that names the
    living writer replaces it (utils/owner.py).
    """

    def __init__(self, kind: str = "run folder", otherwise: str = "another --run-dir") -> None:
        self._kind, self._otherwise = kind, otherwise  # for messages
        #: The locked folder, which is held, so that writes through it go nowhere else.
        self.folder: Folder | None = None
        #: The process that ended without releasing the lock, if there was one.
        self.left_by: str | None = None
        self._closing = contextlib.ExitStack()

    def acquire(self, path: Path) -> Folder:
        """Lock the folder at `path` and return it. It may be called again for the same folder.

        Raises:
            FileSystemError: another process holds the lock, the folder cannot be written to, or `.lock` is a link.
        """
        Stopped.check()
        path = path.resolve()
        if self.folder is not None:
            assert path == self.folder.path, "one lock is for one folder"
            return self.folder
        with contextlib.ExitStack() as undo:
            try:
                folder = undo.enter_context(Folder(path))
                file = undo.enter_context(folder.update(NAME))
                found = file.read(300)
                holder = found.decode(errors="replace").strip() if _HOLDER.fullmatch(found) else ""
                missing = self._lock(file.fileno(), path, holder)
                owner = live_owner(folder)
                if owner is not None:
                    raise self._in_use(path, owner)
                if missing is not None:
                    warn_once(
                        "locks", f"no file is locked in {path} ({missing}); {OWNER_NAME} there says who writes it"
                    )
                    stand_in = Owner(folder)
                    undo.callback(stand_in.give_back)
                    stand_in.take()
            except OSError as error:
                raise FileSystemError(f"cannot write into the {self._kind} {path}: {error.strerror}") from error
            if _HOLDER.fullmatch(found):  # otherwise it is not our file, and must not be overwritten
                self._write(file, f"pid {os.getpid()} on {host_name()}\n".encode())
                undo.callback(self._write, file, b"")
            self.folder, self.left_by = folder, holder or None
            self._closing = undo.pop_all()
        return folder

    def release(self) -> None:
        self._closing.close()
        self.folder = None

    def _in_use(self, path: Path, holder: str) -> FileSystemError:
        return FileSystemError(
            f"{path} is in use by {holder or 'another process'}; wait for it to end, or give {self._otherwise}"
        )

    def _lock(self, descriptor: int, path: Path, holder: str) -> str | None:
        """Take the flock. Returns None, or the reason why the file system has none."""
        if fcntl is None:
            return "this system has no flock"
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._in_use(path, holder) from error
        except OSError as error:  # a file system without locks, such as some network ones
            return error.strerror or str(error)
        return None

    @staticmethod
    def _write(file: BinaryIO, data: bytes) -> None:
        with contextlib.suppress(OSError):  # on a full disk the lock still holds
            file.truncate(0)
            file.seek(0)
            file.write(data)

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
