"""What Lance's errors mean where others write too. It has a class of its own for some of them; of the rest only the words tell."""

from lance.commit import CommitConflictError

#: What Lance says when another commit was first. No shorter ones: a dead connection's message speaks of retries, a full process's of
#: "too many open files".
_FIRST = ("commit conflict for version", "concurrent transaction", "concurrent writers", "concurrently created", "concurrently modified")


def rival(error: BaseException) -> bool:
    """Whether another writer's commit was first."""
    return isinstance(error, CommitConflictError) or any(sign in str(error).lower() for sign in _FIRST)


def missing(error: BaseException) -> bool:
    """Whether a file is not there: cleaned away, if the table has a newer version, else lost."""
    return any(sign in str(error).lower() for sign in ("not found", "no such file"))


def replaced(error: BaseException) -> bool:
    """Whether a version was removed between being found and being opened."""
    return missing(error) and ".manifest" in str(error)
