"""How much memory a process held at its peak."""

from contextlib import suppress
from pathlib import Path


def peak(pid: int | str = "self") -> int:
    """In bytes, of that program alone (what the system counts for a child begins with its parent's memory); 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0
