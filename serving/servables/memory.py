"""Memory that glibc's allocator keeps after it is freed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _find_malloc_trim() -> Callable[[int], object]:
    """Return glibc's malloc_trim, or a function that does nothing where there is none."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda padding: None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    return trim


_malloc_trim = _find_malloc_trim()


def return_freed_memory() -> None:
    """Return freed memory to the system.

    glibc keeps freed memory in each thread's arena. If versions are loaded and unloaded in
    different threads, it may keep the memory of several versions.
    """
    _malloc_trim(0)
