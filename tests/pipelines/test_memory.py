"""What one shard frees, the next one uses; what imports made is not collected at the end."""

import ctypes
import subprocess
from collections.abc import Callable

import pytest

#: Page faults of ten arrays of 64 MB, one after the other.
PROGRAM = """
import resource, sys
from pipelines.memory import keep_freed
if sys.argv[1] == "kept":
    keep_freed(512)
for _ in range(10):
    bytearray(b"x") * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_pages_of_a_freed_array_serve_the_next(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    given_back, kept = (int(spawn("-c", PROGRAM, how).communicate()[0]) for how in ("given back", "kept"))
    pages = (64 << 20) // 4096
    assert given_back > 10 * pages
    assert kept < 3 * pages


#: Whether an object in a cycle with itself is still looked for when the process ends, after everything that ``atexit`` holds.
CYCLE = """
import sys
from pipelines.memory import collect_seldom
if sys.argv[1] == "seldom":
    collect_seldom()
class Node:
    def __init__(self):
        self.me = self
    def __del__(self):
        print("collected")
for _ in range(3_000):
    Node()
print("end", flush=True)
"""


def test_cycles_are_looked_for_seldom_and_not_at_the_end(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    before, after = (spawn("-c", CYCLE, how).communicate()[0].split("end") for how in ("often", "seldom"))
    assert before[0].count("collected") > 2_000
    assert before[1].count("collected") > 0
    assert after[0].count("collected") == after[1].count("collected") == 0
