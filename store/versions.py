"""Versions and the names that move over them."""

from schemas.errors import ConflictError, NotFoundError
from schemas.records import AliasRecord, VersionRecord
from store.home import Home, provenance

PRODUCTION = "production"


def resolve(home: Home, reference: str | int | None = None) -> VersionRecord:
    """A version by number or alias; by default ``production``, or the newest if nothing is promoted yet.

    Raises:
        NotFoundError: there is none.
    """
    number: int | None
    if reference is None:
        number = current(home, PRODUCTION) or home.versions.last() or None
    elif str(reference).isdecimal():
        number = int(reference)
    else:
        number = current(home, str(reference)) if str(reference) in home.objects.names("aliases") else None
    record = home.versions.get(number) if number else None
    if record is None:
        what = "no version yet" if reference is None else f"no version or alias {reference!r}"
        mend = "tapstate refresh" if reference is None else "tapstate versions"
        raise NotFoundError(what, where=home.uri, mend=mend)
    return record


def newest(home: Home, aggregator: str) -> VersionRecord | None:
    """The newest version of a line."""
    for number in range(home.versions.last(), 0, -1):
        record = home.versions.get(number)
        if record and record.aggregator == aggregator:
            return record
    return None


def current(home: Home, alias: str) -> int | None:
    """The version an alias names, if any."""
    ledger = home.aliases(alias)
    record = ledger.get(ledger.last())
    return record.version if record else None


def aliases(home: Home) -> dict[int, list[str]]:
    """Aliases by the version they name."""
    found: dict[int, list[str]] = {}
    for name in home.objects.names("aliases"):
        version = current(home, name)
        if version:
            found.setdefault(version, []).append(name)
    return found


def promote(home: Home, version: int, *, alias: str = PRODUCTION, expected: int | None, reason: str) -> AliasRecord:
    """Move ``alias`` to ``version`` if it still names ``expected`` (compare and set).

    Raises:
        NotFoundError: there is no such version.
        ConflictError: it names another version by now.
    """
    resolve(home, version)
    ledger = home.aliases(alias)
    number = ledger.last()
    before = ledger.get(number)
    now = before.version if before else None
    record = AliasRecord.model_validate(
        {**provenance(), "number": number + 1, "name": alias, "version": version, "expected": expected, "reason": reason}
    )
    if now != expected or not ledger.append(number + 1, record):
        raise ConflictError(
            f"{alias} names version {current(home, alias)}, not {expected}", where=home.uri, mend="tapstate versions, then decide again"
        )
    return record
