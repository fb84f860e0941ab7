"""Versions and the names that move over them.

A version is named by number, by alias, by alias and moment (``candidate@2026-11-20T03:00``), or by a moment alone, which means what
``production`` named then. Moments are ISO 8601, UTC unless they say otherwise; a date alone is its first instant.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from schemas.errors import ConfigError, ConflictError, NotFoundError
from schemas.records import AliasRecord, VersionRecord
from store.home import Home, provenance

PRODUCTION = "production"
#: What an alias may be called: nothing that is a number, a moment or a path.
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def resolve(home: Home, reference: str | int | None = None) -> VersionRecord:
    """A version by number, alias or moment; by default ``production``, or the newest if nothing is promoted yet.

    Raises:
        NotFoundError: there is none, was none at that moment, or it is retired by now.
    """
    if reference is None:
        record = home.versions.get(current(home, PRODUCTION) or home.versions.last())
        if record is None:
            raise NotFoundError("no version yet", where=home.uri, mend="tapstate refresh")
        return record
    record = _named(home, str(reference))
    if record is None:
        raise NotFoundError(f"no version, alias or moment {reference!r}", where=home.uri, mend="tapstate versions")
    if end := home.retired.get(record.number):
        nearest = min((version.number for version in kept(home)), key=lambda n: abs(n - record.number), default=None)
        raise NotFoundError(
            f"version {record.number} was retired on {end.created_at:%Y-%m-%d} ({end.reason})",
            where=home.uri,
            mend=f"take the nearest version that is kept, {nearest}; tapstate versions lists them",
        )
    return record


def _named(home: Home, reference: str) -> VersionRecord | None:
    name, _, moment = reference.rpartition("@")
    when = _moment(moment)
    if when and (not name or _known(home, name)):
        return _at(home, name or PRODUCTION, when)
    number: int | None = None
    if reference.isdecimal():
        number = int(reference)
    elif _known(home, reference):
        number = current(home, reference)
    return home.versions.get(number) if number else None


def kept(home: Home) -> list[VersionRecord]:
    """Versions that can be read, oldest first."""
    gone = retired(home)
    return [version for version in home.versions.all() if version.number not in gone]


def retired(home: Home) -> set[int]:
    """Versions that are not to be read again."""
    return {int(name.removesuffix(".json")) for name in home.objects.names("retired")}


def newest(home: Home, aggregator: str) -> VersionRecord | None:
    """The newest version of a line."""
    for number in range(home.versions.last(), 0, -1):
        record = home.versions.get(number)
        if record and record.aggregator == aggregator:
            return record
    return None


def counts(home: Home, version: VersionRecord) -> tuple[int, int]:
    """Users and events of a version now: its record's, less those erased since."""
    gone = [record.shrunk.get(version.number, (0, 0)) for record in home.erasures.all()]
    return version.users - sum(users for users, _ in gone), version.events - sum(events for _, events in gone)


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


def moves(home: Home) -> list[AliasRecord]:
    """Every move of every alias, in order of time."""
    return sorted((r for name in home.objects.names("aliases") for r in home.aliases(name).all()), key=lambda r: r.created_at)


def promote(home: Home, version: int, *, alias: str = PRODUCTION, expected: int | None, reason: str) -> AliasRecord:
    """Move ``alias`` to ``version`` if it still names ``expected`` (compare and set).

    Raises:
        ConfigError: that cannot be an alias.
        NotFoundError: there is no such version.
        ConflictError: it names another version by now.
    """
    if not ALIAS.fullmatch(alias):
        raise ConfigError(f"{alias!r} cannot be an alias", mend="lower-case letters, digits, - and _, a letter first, at most 64")
    resolve(home, version)
    return _move(home, alias, version, expected, reason, rollback=False)


def rollback(home: Home, *, alias: str = PRODUCTION, expected: int | None = None, reason: str) -> AliasRecord:
    """Move ``alias`` back to the version it named before its present one was promoted; again, to the one before that.

    Nightly refreshes then leave it there, until somebody promotes a version.

    Args:
        expected: the version that it should name now; None for whichever it does.

    Raises:
        NotFoundError: it never named another version, or has none.
        ConflictError: it was moved meanwhile.
    """
    trail = _trail(home.aliases(alias).all()) if _known(home, alias) else []
    if len(trail) < 2:
        what = f"{alias} has named no version before {trail[0]}" if trail else f"there is no alias {alias!r}"
        raise NotFoundError(what, where=home.uri, mend="tapstate versions --moves")
    return _move(home, alias, trail[-2], expected or trail[-1], reason, rollback=True)


def returns(home: Home) -> set[int]:
    """Versions that a rollback of an alias would go back to."""
    trails = (_trail(home.aliases(alias).all()) for alias in home.objects.names("aliases"))
    return {trail[-2] for trail in trails if len(trail) > 1}


def held(home: Home, alias: str = PRODUCTION) -> AliasRecord | None:
    """The rollback that holds an alias, if its last move was one."""
    ledger = home.aliases(alias)
    record = ledger.get(ledger.last())
    return record if record and record.rollback else None


def _move(home: Home, alias: str, version: int, expected: int | None, reason: str, *, rollback: bool) -> AliasRecord:
    ledger = home.aliases(alias)
    number = ledger.last()
    before = ledger.get(number)
    now = before.version if before else None
    fields = {"number": number + 1, "name": alias, "version": version, "expected": expected, "reason": reason, "rollback": rollback}
    record = AliasRecord.model_validate({**provenance(), **fields})
    if now != expected or not ledger.append(number + 1, record):
        winner = ledger.get(ledger.last())
        by = f", moved by {winner.created_by}: {winner.reason}" if winner else ""
        raise ConflictError(
            f"{alias} names version {winner.version if winner else None}, not {expected}{by}",
            where=home.uri,
            mend="tapstate versions, then decide again",
        )
    if version in retired(home) and now is not None and now != version:
        # Retired after we looked and before the name was written: whoever looks last sees both, and takes the name back.
        ledger.append(number + 2, record.model_copy(update={"number": number + 2, "version": now, "expected": version}))
        raise ConflictError(f"version {version} was retired meanwhile", where=home.uri, mend="tapstate versions, then decide again")
    return record


def _trail(records: Iterable[AliasRecord]) -> list[int]:
    """Versions that promotions stacked up; a rollback takes off what lies above the version it went to."""
    trail: list[int] = []
    for record in records:
        if record.rollback and record.version in trail:
            while trail[-1] != record.version:
                trail.pop()
        elif not trail or trail[-1] != record.version:
            trail.append(record.version)
    return trail


def _at(home: Home, alias: str, when: datetime) -> VersionRecord:
    """What ``alias`` named at ``when``; before production's first move, the newest version made until then."""
    ledger = home.aliases(alias)
    named = [record.version for record in ledger.all() if record.created_at <= when]
    if not named and alias == PRODUCTION:
        named = [record.number for record in home.versions.all() if record.created_at <= when]
    record = home.versions.get(named[-1]) if named else None
    if record is None:
        first = ledger.get(1) or home.versions.get(1)
        since = f"; the first is of {first.created_at.isoformat(timespec='seconds')}" if first else ""
        raise NotFoundError(f"{alias} named no version at {when.isoformat()}{since}", where=home.uri, mend="tapstate versions --moves")
    return record


def _known(home: Home, alias: str) -> bool:
    return alias in home.objects.names("aliases")


def _moment(text: str) -> datetime | None:
    """A moment, UTC unless it says otherwise; None if ``text`` is none. ``20261120`` is a number, not a date."""
    if "-" not in text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
