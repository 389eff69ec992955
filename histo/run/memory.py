"""Memory that is freed is used again."""

from __future__ import annotations

import ctypes
import os
import sys

# Of glibc's malloc.h.
_M_ARENA_MAX = -8


def share_freed_memory() -> None:
    """Make the C library give what one thread has freed to the others.

    By default each of glibc's threads has a heap of its own; with some threads that read, decode and compute,
    what is free in one and wanted in another piles up with the slide. Returning freed blocks to the system
    instead saves a tenth of the memory, and costs a third more processor time: every tile would ask for its
    pages anew. Affects the whole process; does nothing where the C library is another.
    """
    if sys.platform != "linux":
        return
    # What torch still asks the system for comes in huge pages, with fewer page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, 1)
