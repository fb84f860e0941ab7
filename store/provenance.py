"""Who writes a record, and with which release. Needs nothing but Python: a bundle's client says it too."""

import getpass
import socket
from importlib.metadata import PackageNotFoundError, version


def code_version() -> str:
    """Version of tapstate that is running."""
    try:
        return version("tapstate")
    except PackageNotFoundError:
        return "unknown"


def who(name: str | None = None) -> str:
    """``user@host``, or ``name@host``."""
    try:
        name = name or getpass.getuser()
    except (KeyError, OSError):
        name = "unknown"
    return f"{name}@{socket.gethostname()}"
