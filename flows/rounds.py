"""The doctor's look at nights: what was ingested, what was made of it, and what is served. Each check is an entry of docs/runbook.md."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl

from flows.finding import Finding
from pipelines.checks import complaint
from schemas.records import IngestRecord
from store.bundle import BundleShelf
from store.events import EventLog
from store.home import Home
from store.lines import Lines
from store.pseudonyms import Pseudonyms
from store.versions import PRODUCTION, current, newest

#: A night that is older than this is stale.
STALE = timedelta(hours=36)
#: An ingest with less than this share of the usual events, with more than this share of rejects, or of one user's events, stands out.
FEW, REJECTED, ONE_USER = 0.5, 0.1, 0.2
#: Ingests that say what is usual, at most and at least, and events below which none stands out.
USUAL, ENOUGH, SOME = 14, 3, 100


def nights(home: Home) -> Iterator[Finding]:
    """Whether nights go on: the newest version is less than 36 hours old.

    See: when the newest version was made, and how many events wait for the next one; or that nothing was ingested or refreshed yet.

    Mend: run ``tapstate refresh``; then find out why the schedule did not: is ``tapstate deploy`` (or your Prefect worker) alive, did its
    last run fail?
    """
    last, now = home.versions.get(home.versions.last()), datetime.now(UTC)
    ingests = home.ingests.last()
    if not ingests:
        yield Finding("nights", "warn", "nothing was ingested yet", "tapstate ingest table FILE…")
        return
    if last is None:
        yield Finding("nights", "warn", "events wait for a first refresh", "tapstate refresh")
        return
    waiting = sum(r.accepted + r.corrected for r in home.ingests.range(last.last_ingest, ingests))
    what = f"version {last.number} is of {last.created_at:%Y-%m-%d %H:%M} UTC; {waiting:,} events wait"
    late = now - last.created_at > STALE
    yield Finding("nights", "warn" if late else "ok", what, "tapstate refresh; tapstate deploy serves the schedule" if late else "")


def checks(home: Home) -> Iterator[Finding]:
    """Whether the newest version passed its checks. One that did not is there, and was not promoted.

    See: which figure crossed which line.

    Mend: see the figure under *Checks of a version*; ``tapstate report`` shows it beside all others. Promote the version by hand if it is
    as it should be.
    """
    last = home.versions.get(home.versions.last())
    if last and (wrong := complaint(last.checks)):
        mend = f"tapstate report {last.number}; then tapstate promote or refresh"
        yield Finding("checks", "fail", f"version {last.number}: {wrong}", mend)


def production(home: Home) -> Iterator[Finding]:
    """Whether ``production`` names a version, and the newest of its line.

    See: "names no version", or which version is served and which newer one is not. After a rollback that is meant: nights leave
    ``production`` where it is until somebody promotes.

    Mend: ``tapstate diff`` the two, then ``tapstate promote`` the newer one, or leave it.
    """
    last, number = home.versions.last(), current(home, PRODUCTION)
    if number is None:
        if last:
            yield Finding("production", "fail", "names no version", f"tapstate promote {last} --reason …")
        return
    of_line = newest(home, home.versions.get(number).aggregator)  # type: ignore[union-attr]
    if of_line and of_line.number != number:
        what = f"version {number} is served, version {of_line.number} of its line is newer"
        yield Finding("production", "warn", what, f"tapstate diff {number} {of_line.number}; tapstate promote {of_line.number}")


def bundle(home: Home) -> Iterator[Finding]:
    """Whether the bundle that ``CURRENT`` names is of the version that ``production`` names. Serving teams have what ``CURRENT`` names.

    See: "no bundle is served", or the two versions' numbers.

    Mend: ``tapstate bundle`` makes it from production's version. If a night could not, its log says why: disk, or a head that fits no more.
    """
    number = current(home, PRODUCTION)
    served = BundleShelf(home).current()
    trained = number is not None and home.versions.get(number).trained  # type: ignore[union-attr]
    if trained and (served is None or served["version"] != number):
        what = "no bundle is served" if served is None else f"the bundle is of version {served['version']}, production is {number}"
        yield Finding("bundle", "warn", what, "tapstate bundle")


def encoder(home: Home) -> Iterator[Finding]:
    """Whether the encoder found here is the one that versions were made with, by its fingerprint, and the one that ``config.toml`` names.

    See: two fingerprints of one line (the model's files were exchanged: the next refresh would be refused); or a configured encoder that no
    line uses yet.

    Mend: put the old files back where ``tapstate lines`` says they were. If the new encoder is meant: ``tapstate train`` opens a line for
    it, which becomes the candidate beside production's.
    """
    from encoders.text import TextEncoder

    lines, versions = Lines(home), list(home.versions.all())
    for line in dict.fromkeys(v.aggregator for v in versions[-1:] + [p for p in (lines.production(),) if p]):
        made = next(v.encoder for v in versions if v.aggregator == line)
        here = TextEncoder(lines.encoder(line)).fingerprint
        if made != here:
            what = f"the encoder of line {line[:12]} is {here[:12]} here, its versions were made with {made[:12]}"
            yield Finding("encoder", "fail", what, "restore the encoder's files, or tapstate train, which opens a line for the new one")
        else:
            yield Finding("encoder", "ok", f"{here[:12]}, of line {line[:12]}")
    newest = lines.newest()
    if newest and home.config.encoder != lines.encoder(newest):
        what = f"config.toml names {home.config.encoder.model!r}, line {newest[:12]} keeps {lines.encoder(newest).model!r}"
        yield Finding("encoder", "warn", what, "tapstate train, which opens a line for it")


def ingests(home: Home) -> Iterator[Finding]:
    """Whether the newest ingest is like the fourteen before it: not less than half of the smallest, not more than a tenth rejected. The
    first ingest, which brings the past, does not count, and two are too few to tell what is usual.

    See: how many events came, new ones or not, and how many came at least before; or how many rows were rejected.

    Mend: look for files that did not come and ingest them; files that are there already add nothing. Of rejects, ``tapstate sql "SELECT
    reason, count(*) FROM rejects GROUP BY reason"`` tells the reasons: usually a column that was renamed, to be mapped with ``--map``.
    """
    records = list(home.ingests.range(max(0, home.ingests.last() - USUAL - 1), home.ingests.last()))
    if not records:
        return
    last, before = records[-1], [_came(record) for record in records[:-1] if record.number > 1]
    where = _named(home)
    if len(before) >= ENOUGH and min(before) >= SOME and _came(last) < FEW * min(before):
        what = f"{where} brought {_came(last):,} events, none of the {len(before)} before fewer than {min(before):,}"
        yield Finding("ingests", "warn", what, "look for missing files and ingest them; what is there already counts as duplicate")
    if last.read >= SOME and last.rejected > REJECTED * last.read:
        what = f"{where} rejected {last.rejected:,} of {last.read:,} rows"
        yield Finding("ingests", "warn", what, 'tapstate sql "SELECT reason, count(*) FROM rejects GROUP BY reason"')


def users(home: Home) -> Iterator[Finding]:
    """Whether one user makes more than a fifth of the newest ingest: a robot, a shared account, a loop in a client.

    See: the user's pseudonym and their share; the SQL that is named shows who has most events of that ingest, by id.

    Mend: stop it at the source. Other users' states do not depend on this one's; ``tapstate erase`` removes whoever is no user.
    """
    number = home.ingests.last()
    parts = [part.group_by("user_id").len() for part in EventLog(home).scan(["user_id"], after=number - 1, until=number)] if number else []
    if not parts:
        return
    counts = pl.concat(parts).group_by("user_id").sum().sort("len", "user_id", descending=True)
    total, (user, most) = int(counts["len"].sum()), counts.row(0)
    if len(counts) >= SOME / 10 and most >= SOME and most > ONE_USER * total:
        what = f"{_named(home)}: {Pseudonyms(home).name(user)} has {most:,} of {total:,} events"
        which = f"FROM events WHERE ingest = {number} GROUP BY user_id ORDER BY n DESC LIMIT 5"
        mend = f'tapstate sql "SELECT user_id, count(*) AS n {which}"'
        yield Finding("users", "warn", what, mend)


def _came(record: IngestRecord) -> int:
    """Events that an ingest read, new to the home or not."""
    return record.accepted + record.duplicate + record.corrected


def _named(home: Home) -> str:
    """The newest ingest and where it came from."""
    last = home.ingests.get(home.ingests.last())
    return f"ingest {last.number} ({', '.join(last.sources[:2])})" if last else ""
