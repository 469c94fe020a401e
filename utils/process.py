"""Tells whether the process that wrote something still lives."""

import contextlib
import hashlib
import os
import socket
from pathlib import Path


def machine() -> str:
    """Identifies the machine, even among machines of one name, and the pid namespace within it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    return hashlib.sha256(os.fsencode(" ".join(parts))).hexdigest()[:8]


def start_of(pid: int) -> str:
    """The start time of a process, which distinguishes it from a later one with its pid; "" if it is unknown or the
    process has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def lives(of_machine: str, pid: int, start: str) -> bool | None:
    """Whether that process exists; None if that cannot be told: it is another machine's, or this is Windows, where
    os.kill would end it."""
    if of_machine != machine() or os.name == "nt":
        return None
    if start_of(pid) != start:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
