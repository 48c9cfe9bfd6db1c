"""Returns freed memory to the system."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable


def _trim() -> Callable[[int], object]:
    """Return glibc's malloc_trim, or a function that does nothing where there is none."""
    try:
        trim = ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda padding: None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    return trim


_malloc_trim = _trim()


def return_freed_memory() -> None:
    """Return freed memory to the system.

    Each thread allocates from one of several arenas, and glibc keeps what is freed in them: after
    many loads in other threads than the unloads, as much as several versions.
    """
    _malloc_trim(0)
