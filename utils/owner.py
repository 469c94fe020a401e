"""Who writes a folder, where the file system has no locks: a file says it, and that its process is alive."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import FileSystemError, FolderGoneError
from utils.folder import Folder

NAME = ".owner"
BEAT = 15.0  # seconds between two signs of life
PATIENCE = 120.0  # a process of another machine that has given none for so long is taken for dead
_LONGEST = 4096  # bytes
_KEYS = {"pid": int, "host": str, "machine": str, "born": str, "folder": str, "key": str, "time": float}


class Owner:
    """This process as the one that writes `folder`, which is held."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._record = {
            **{"pid": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "born": _born(os.getpid())},
            **{"folder": folder.path.name, "key": secrets.token_hex(8)},
        }
        self._file: BinaryIO | None = None
        self._beaten = 0.0
        self._end = threading.Event()

    def take(self) -> None:
        """Raises FileSystemError where the file cannot be written, or a live process is the owner; OSError."""
        with contextlib.suppress(FileExistsError):  # then another has come first; whose it is is seen below
            if self._folder.size(NAME) is not None:
                self._folder.remove(NAME)  # of a dead process: a live one has been asked for before
            self._file = self._folder.create(NAME)
            self._beat()
        time.sleep(0.2)  # whoever has seen the same dead owner takes it within this time
        self._check()
        self._folder.before_write = self._write_is_near
        with contextlib.suppress(RuntimeError):  # no thread is left: the writes are the signs of life
            threading.Thread(target=self._keep_beating, daemon=True).start()

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

    def _keep_beating(self) -> None:
        while not self._end.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        """Always as many bytes, in one write: who reads at this moment finds the old time or the new one."""
        self._beaten = time.monotonic()
        text = json.dumps({**self._record, "time": round(time.time(), 1)}).ljust(_LONGEST // 4) + "\n"
        file = self._file
        if file is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, or it has just been given back
                file.seek(0)
                file.write(text.encode())
                os.fsync(file.fileno())  # or another machine may not see it for as long


def live_owner(folder: Folder) -> str | None:
    """The process that owns `folder` and is alive, for a message; None if there is none. `folder` is held.

    On this machine a process is alive if it is there; of another machine while its last sign of life is fresh.

    Raises:
        FileSystemError: there is a file of that name which no program of ours wrote.
    """
    found = read(folder)
    if found is None or found["folder"] != folder.path.name:  # it is a copy of that folder
        return None
    if found["machine"] == _machine() and os.name != "nt":  # where os.kill would end the process
        alive = _born(found["pid"]) == found["born"] and _is_there(found["pid"])
    else:
        alive = abs(time.time() - found["time"]) <= PATIENCE
    return name_of(found) if alive else None


def read(folder: Folder) -> dict[str, Any] | None:
    """What the file says; None where there is none, or an empty one, whose maker has died."""
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


def _machine() -> str:
    """Tells machines apart, those of one name too, and within one the spaces in which pids count."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    return " ".join(parts)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _born(pid: int) -> str:
    """When a process began, which tells it from a later one of the same number; "" where that cannot be known or it
    has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
