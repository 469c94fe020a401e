"""How much memory there is, and what the C library does with what is freed."""

import ctypes
import os
import platform
import sys

# Names and numbers of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let the process keep the memory it frees, for its own next allocation; False where that is not up to us.

    glibc hands large freed blocks back to the kernel at once, so each large activation of each step is faulted in
    again, page by page. Kept, they cost more memory at the peak (docs/performance.md has both figures). It is for the
    whole process, and for Linux with glibc only.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def machine_memory() -> int:
    """Bytes of memory that this machine has, however much of it is in use; where it does not say, no end of it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
