"""One tree of errors. Each says what is wrong, where, and the command that mends it."""


class TapstateError(Exception):
    """Base of every error tapstate raises on purpose.

    Args:
        what: what is wrong, in one sentence.
        where: the file, record, version or option it concerns.
        mend: a command or action that mends it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what, where, mend)
        self.what, self.where, self.mend = what, where, mend

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.mend:
            text += f"\n  mend: {self.mend}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.mend))


def _rebuild(kind: type[TapstateError], what: str, where: str, mend: str) -> TapstateError:
    return kind(what, where=where, mend=mend)


class ConfigError(TapstateError, ValueError):
    """An option or a configuration value that cannot be used."""

    exit_code = 2


class InputError(TapstateError, ValueError):
    """An input that cannot be read at all: no such file, no such column, not the format it says."""


class HomeError(TapstateError):
    """No home there, or one of a format this release cannot open."""


class NotFoundError(TapstateError, LookupError):
    """A version, alias, model or user that does not exist."""


class ConflictError(TapstateError):
    """Another writer was first; names the winner."""

    exit_code = 4


class CompatibilityError(TapstateError, ValueError):
    """Two artifacts that do not belong together, both named by hash."""


class CorruptError(TapstateError):
    """Stored bytes that are not what their record or manifest says."""


class ShardError(TapstateError):
    """Shards of a night that could not be computed; names the first one and its first bad user. The others' work is kept."""


class ParityError(TapstateError):
    """An exported graph that does not compute what its torch module computes."""


class LeakError(TapstateError):
    """An event of the future in a history that should not have known it."""


class CheckError(TapstateError):
    """A version that failed a check before promotion; it is kept, not promoted."""

    exit_code = 5


class EngineError(TapstateError):
    """An engine that gave up: a runner that cannot be reached, or lost its workers."""
