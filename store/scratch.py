"""Working directories on this machine's disk, outside any home; those of killed processes go with the next use.

They hold rows of users. Each has a file lock beside it that its process holds: a lock that can be had belongs to nobody alive.
"""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "tapstate-work-"


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory while the block runs."""
    sweep()
    directory = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(8)}"
    lock = FileLock(f"{directory}.lock", thread_local=False)
    with lock:
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def sweep() -> None:
    """Delete directories whose processes were killed; those of other accounts on this machine are left to them."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*.lock"):
        with suppress(Timeout, OSError), FileLock(path, timeout=0, thread_local=False):
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)
