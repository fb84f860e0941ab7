"""Memory of a finished shard, kept for the next one."""

import ctypes
from functools import cache

#: Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Arrays below this come out of the kept memory.
LARGEST = 1 << 30


@cache
def keep_freed(megabytes: int) -> None:
    """Have this process keep up to about so much of what it frees, once for all.

    By default glibc gives every array of a few megabytes back to the kernel and asks for fresh, zeroed pages at the next one.
    Elsewhere than on glibc it does nothing.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    # Older ones take no more than 32 MB for the first; both are ints of C.
    if tune and (tune(M_MMAP_THRESHOLD, LARGEST) or tune(M_MMAP_THRESHOLD, 32 << 20)):
        tune(M_TRIM_THRESHOLD, min(megabytes, 2047) << 20)
