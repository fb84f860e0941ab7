"""What one shard frees, the next one uses."""

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
