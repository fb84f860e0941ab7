"""Memory of a process: what a shard or a training step freed is kept for the next one, and what imports made is not walked over again."""

import atexit
import ctypes
import gc
from functools import cache

#: Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Arrays below this come out of the kept memory.
LARGEST = 1 << 30
#: Megabytes that can be kept: bytes are counted in an int of C.
MOST = 2_047
#: New objects after which Python looks for cycles among them; 700 by default.
SELDOM = 10_000


@cache
def keep_freed(megabytes: int = MOST) -> None:
    """Have this process keep up to about so much of what it frees from now on.

    By default glibc gives every array of a few megabytes back to the kernel and asks for fresh, zeroed pages at the next one.
    Elsewhere than on glibc it does nothing.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    # Older ones take no more than 32 MB for the first; both are ints of C.
    if tune and (tune(M_MMAP_THRESHOLD, LARGEST) or tune(M_MMAP_THRESHOLD, 32 << 20)):
        tune(M_TRIM_THRESHOLD, min(megabytes, MOST) << 20)


@cache
def collect_seldom() -> None:
    """Have Python look for cycles seldom, and not once more when the process ends; to be called before large imports.

    Torch and what else a night imports are some 300,000 objects. At every fourth part more Python walks over all of them, and at the
    end again, to free what the kernel takes back anyway; that is a second of every command. Arrays and tensors are freed without it.
    """
    gc.set_threshold(SELDOM, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
