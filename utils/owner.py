"""A file that names the living writer of a folder, for file systems without locks."""

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from typing import Any, BinaryIO

from utils.errors import FileSystemError, FolderGoneError, Stopped
from utils.folder import Folder
from utils.once import warn_once
from utils.process import lives, machine, start_of

NAME = ".owner"
BEAT = 15.0  # seconds between two refreshes of the file
PATIENCE = 120.0  # seconds for which the file of another machine's process is watched for a refresh
_LONGEST = 4096  # bytes
_KEYS = {"pid": int, "host": str, "machine": str, "born": str, "folder": str, "key": str, "time": float}


class Owner:
    """Marks this process as the writer of `folder`, which is held."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._record = {
            "pid": os.getpid(),
            "host": host_name(),
            "machine": machine(),
            "born": start_of(os.getpid()),
            "folder": folder.path.name,
            "key": secrets.token_hex(8),
        }
        self._file: BinaryIO | None = None
        self._beaten = 0.0
        self._end = threading.Event()

    def take(self) -> None:
        """Write the file. Raises FolderGoneError if another process is faster, FileSystemError or OSError if the file
        cannot be written."""
        with contextlib.suppress(FileExistsError):  # another process was faster; `_check` finds its key
            self._file = self._folder.create(NAME)
            self._beat()
        time.sleep(0.2)  # any other process that saw the same dead owner has written by then
        self._check()
        self._folder.before_write = self._write_is_near
        with contextlib.suppress(RuntimeError):  # without a thread, each write refreshes the file
            threading.Thread(target=self._keep_refreshing, daemon=True).start()

    def give_back(self) -> None:
        self._end.set()
        self._folder.before_write = lambda: None
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(OSError, FileSystemError, FolderGoneError):
                if (read(self._folder) or {}).get("key") == self._record["key"]:
                    self._folder.remove(NAME)

    def _check(self) -> None:
        found = read(self._folder)
        if (found or {}).get("key") != self._record["key"]:
            raise FolderGoneError(
                f"{self._folder} has been taken over by {name_of(found)}; this process writes no more"
            )

    def _write_is_near(self) -> None:
        self._check()
        if time.monotonic() - self._beaten > BEAT:
            self._beat()

    def _keep_refreshing(self) -> None:
        while not self._end.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        """Refresh the file: always the same number of bytes in one write, so that a reader finds the old or the new
        time."""
        self._beaten = time.monotonic()
        text = json.dumps({**self._record, "time": round(time.time(), 1)}).ljust(_LONGEST // 4) + "\n"
        file = self._file
        if file is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, or `give_back` has just closed it
                file.seek(0)
                file.write(text.encode())
                os.fsync(file.fileno())  # otherwise another machine may see it late


def live_owner(folder: Folder) -> str | None:
    """The living process that owns `folder`, for a message; None if there is none, and then its file is removed.
    `folder` is held.

    A process of this machine is alive if it exists, one of another machine if it refreshes its file.

    Raises:
        FileSystemError: there is a file of that name that none of our programs wrote.
    """
    found = read(folder)
    if found is not None and found["folder"] == folder.path.name:  # otherwise the folder is a copy
        alive = lives(found["machine"], found["pid"], found["born"])
        if alive is None:
            found = _refreshed(folder, found)
        elif not alive:
            found = None
        if found is not None:
            return name_of(found)
    folder.remove(NAME)
    return None


def _refreshed(folder: Folder, found: dict[str, Any]) -> dict[str, Any] | None:
    """What the file says once it is no longer `found`; None if it stays so for PATIENCE, or its writer has removed it.

    The file is watched, because no time in it or of it proves anything: clocks of machines differ, and some file
    systems note the time of a write by the clock of the machine that writes.
    """
    warn_once("owner", f"watching for {PATIENCE:.0f} s whether {name_of(found)} still writes {folder}")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(1.0)
        Stopped.check()
        now = read(folder)
        if now != found:
            return now
    return None


def read(folder: Folder) -> dict[str, Any] | None:
    """The contents of the file; None if it is missing, or empty because its writer died."""
    data = folder.read(NAME, _LONGEST)
    if not data:
        return None
    try:
        found: dict[str, Any] = json.loads(data)
        if not all(type(found[key]) is kind for key, kind in _KEYS.items()) or found["pid"] < 1:
            raise ValueError("of another form")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        path = folder.path / NAME
        raise FileSystemError(f"{path} should say who writes this folder, and does not; take it away") from error
    return found


def name_of(found: dict[str, Any] | None) -> str:
    return f"pid {found['pid']} on {found['host']}" if found else "another process"


def host_name() -> str:
    """This machine's name for a file or a file's name: the system takes any bytes for one."""
    return re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII) or "unnamed"
