"""The size of the machine's memory, and the treatment of freed memory by the C library."""

import ctypes
import os
import platform
import re
import sys
from pathlib import Path

# Names and numbers of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_DEFAULTS = ((_M_MMAP_MAX, 1 << 16), (_M_TRIM_THRESHOLD, 1 << 17), (_M_TOP_PAD, 1 << 17))


def keep_freed_memory() -> bool:
    """Let the process keep the memory it frees for its next allocations. Returns False if that is not possible.

    glibc returns large freed blocks to the kernel at once, so every step has page faults for all its large activations.
    Keeping the blocks costs more memory at the peak (docs/performance.md has both figures). It affects the whole
    process, and works only on Linux with glibc. A process whose memory is limited (`ulimit`) keeps glibc's defaults.
    """
    return not _under_own_limits() and _allocate_by(
        ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
    )


def give_back_freed_memory() -> None:
    """Undo `keep_freed_memory`: glibc's defaults hold again, and what is free goes back to the kernel."""
    if _allocate_by(_DEFAULTS):
        ctypes.CDLL(None).malloc_trim(0)


def _allocate_by(settings: tuple[tuple[int, int], ...]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def machine_memory() -> int:
    """The machine's memory in bytes, used or free; sys.maxsize if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def available_memory() -> int:
    """The bytes that this process can still take without swapping, within the limits of its container (cgroup) and its
    own (`ulimit -v`, `ulimit -d`)."""
    free = [machine_memory(), *_under_own_limits()]
    found = re.search(r"^MemAvailable: +(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    free += [int(found[1]) << 10] if found else []
    for group in _cgroups():
        limit, used = (_text(f"{group}/memory.{name}").strip() for name in ("max", "current"))
        if limit.isdigit() and used.isdigit():
            cached = re.search(r"^file (\d+)$", _text(f"{group}/memory.stat"), re.MULTILINE)
            free.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return max(0, min(free))


def _cgroups() -> list[Path]:
    """The folder of this process's group and those of the groups around it; each may have a limit."""
    root = Path("/sys/fs/cgroup")
    found = re.search(r"^0::/(.*)$", _text("/proc/self/cgroup"), re.MULTILINE)
    own = root / found[1] if found else root
    return [root, *(folder for folder in (own, *own.parents) if root in folder.parents)]


def _under_own_limits() -> list[int]:
    """What is left of each limit on the process's memory."""
    pages = _text("/proc/self/statm").split()
    if not pages:
        return []
    import resource  # not on Windows

    limits = {resource.RLIMIT_AS: pages[0], resource.RLIMIT_DATA: pages[5]}
    soft = {kind: resource.getrlimit(kind)[0] for kind in limits}
    return [
        soft[kind] - int(used) * resource.getpagesize()
        for kind, used in limits.items()
        if soft[kind] != resource.RLIM_INFINITY
    ]


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
