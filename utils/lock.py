"""One writer for a folder."""

import contextlib
import os
import socket
from pathlib import Path

from utils.errors import FileSystemError, Stopped

try:
    import fcntl
except ImportError:  # Windows has no flock; there two runs in one folder are the user's to avoid
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


class FolderLock:
    """Held by the one process that writes a folder. A context manager, which gives it back.

    It is an flock, so the kernel gives it back as well, however the process ends: there is no stale lock to remove.
    The file stays, with the holder's process number in it while it is held.
    """

    def __init__(self, kind: str = "run folder", otherwise: str = "another --run-dir") -> None:
        self._kind, self._otherwise = kind, otherwise  # for messages
        self.folder: Path | None = None
        #: The process that held the lock and ended without giving it back, if there was one.
        self.left_by: str | None = None
        self._descriptor: int | None = None

    def acquire(self, folder: Path) -> None:
        """Take the lock of `folder`, which exists; nothing happens if this lock already holds it.

        Raises:
            FileSystemError: another process holds it, or the folder cannot be written to.
        """
        Stopped.check()
        folder = folder.resolve()
        if folder == self.folder:
            return
        assert self.folder is None, "one lock is for one folder"
        try:
            descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise FileSystemError(f"cannot write into the {self._kind} {folder}: {error.strerror}") from error
        holder = os.read(descriptor, 300).decode(errors="replace").strip()
        try:
            self._lock(descriptor)
        except BlockingIOError as error:
            os.close(descriptor)
            raise FileSystemError(
                f"{folder} is in use by {holder or 'another process'}; wait for it to end, or give {self._otherwise}"
            ) from error
        self.folder, self.left_by, self._descriptor = folder, holder or None, descriptor
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
        self.folder, self._descriptor = None, None

    @staticmethod
    def _lock(descriptor: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks, such as some network ones
            return

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
