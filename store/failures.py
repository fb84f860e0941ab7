"""What Lance's messages mean to whoever reads them: a full disk, something forbidden, a store that does not answer, damage."""

import re

import pyarrow as pa

from schemas.errors import CorruptError, HomeError, TapstateError

#: What Lance raises.
LANCE_ERRORS = (OSError, ValueError, RuntimeError, pa.ArrowException)
#: What its messages say when a disk is full, when something is forbidden, and when a store does not answer.
_FULL = ("No space left", "os error 28", "os error 122", "os error 27", "File too large", "quota")
_DENIED = ("Permission denied", "Read-only file system", "os error 13", "os error 30", "os error 1)", "AccessDenied", "Forbidden")
_UNREACHED = (
    "timed out",
    "timeout",
    "onnect",
    "sending request",
    "dns error",
    "Server Error",
    "SlowDown",
    "HTTP error",
    "Too many open files",
)


def failure(uri: str, verb: str, name: str, error: BaseException) -> TapstateError:
    """The error of ours for one of Lance's.

    Args:
        uri: of the database.
        verb: what was to be done with the table ``name``.
    """
    text = str(error)
    if any(sign in text for sign in _FULL):
        return HomeError(
            f"cannot {verb} table {name}: no space left ({short(error)})",
            where=uri,
            mend="free space (tapstate maintain shows what it would free), then run it again",
        )
    if any(sign in text for sign in _DENIED):
        return HomeError(
            f"cannot {verb} table {name}: not allowed ({short(error)})", where=uri, mend="check permissions, then run it again"
        )
    if verb in ("open", "read") and not any(sign in text for sign in _UNREACHED):
        return damage(uri, name, short(error))
    return HomeError(
        f"cannot {verb} table {name}: {short(error)}",
        where=uri,
        mend="check free space, permissions and the connection, then run it again",
    )


def damage(uri: str, name: str, what: str, mend: str = "restore the table's folder from a backup of the home") -> CorruptError:
    """The error of a table whose files are not as they were written."""
    return CorruptError(f"table {name} is damaged: {what}", where=f"{uri}/{name}.lance", mend=mend)


def short(error: BaseException) -> str:
    """Lance's message without the places in its own source."""
    return re.split(r",? ?/[^ ]*\.rs:\d+", str(error).splitlines()[0] if str(error) else repr(error))[0][:300]
