"""The doctor: what is wrong with the environment, the home and its last nights, each finding with its mending command.

It reads every record, which are small, and one column of the newest ingest's events.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Literal

import polars as pl

from pipelines.checks import complaint
from schemas.errors import TapstateError
from schemas.records import VersionRecord
from store.bundle import BundleShelf
from store.events import EventLog
from store.home import Home
from store.lease import RENEWALS, TERM, dead, living, unique
from store.lines import Lines
from store.pseudonyms import Pseudonyms
from store.sweep import dead_plans, pending
from store.versions import PRODUCTION, current, newest

Status = Literal["ok", "warn", "fail"]
#: A night that is older than this is stale, a clock that is further ahead is wrong, a lease that was renewed for longer is stuck.
STALE, AHEAD, STUCK = timedelta(hours=36), timedelta(minutes=5), timedelta(hours=12)
#: An ingest with less than this share of the usual events, with more than this share of rejects, or of one user's events, stands out.
FEW, REJECTED, ONE_USER = 0.5, 0.1, 0.2
#: Ingests that say what is usual, and events below which none stands out.
USUAL, SOME = 14, 100
#: Free share of the disk, and packages that must not be there together.
FREE = 0.1
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Finding:
    """One look: ``ok``, ``warn`` (somebody should look), or ``fail`` (nights or answers are wrong), and what mends it."""

    check: str
    status: Status
    found: str
    mend: str = ""


def examine(home: Home) -> list[Finding]:
    """Every check; one that cannot be made is a finding itself."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(home)
        except TapstateError as error:
            found.append(Finding(check.__name__.strip("_"), "fail", f"{error.what} ({error.where})", error.mend))
    return found


def _packages(_: Home) -> Iterator[Finding]:
    there = {}
    for name in (*RUNTIMES, "torch", "lancedb", "pylance", "prefect", "apache-beam", "polars"):
        try:
            there[name] = version(name)
        except PackageNotFoundError:
            continue
    told = ", ".join(f"{name} {number}" for name, number in there.items())
    both = all(name in there for name in RUNTIMES)
    mend = "pip uninstall onnxruntime onnxruntime-gpu; pip install tapstate" if both else ""
    yield Finding("packages", "fail" if both else "ok", f"both {' and '.join(RUNTIMES)}: {told}" if both else told, mend)


def _gpu(_: Home) -> Iterator[Finding]:
    import torch

    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    yield Finding("gpu", "ok", ", ".join(names) or "none: texts are encoded on the CPU")


def _place(home: Home) -> Iterator[Finding]:
    probe = unique("doctor")
    won = [home.objects.create(probe, b"1"), home.objects.create(probe, b"2")]
    held = home.objects.get(probe)
    home.objects.remove(probe)
    fine = won == [True, False] and held == b"1"
    what = "can be written; of two writers one wins" if fine else f"put-if-absent does not hold: {won}, {held!r}"
    yield Finding("place", "ok" if fine else "fail", what, "" if fine else "keep the home on a store with conditional writes")


def _disk(home: Home) -> Iterator[Finding]:
    if home.objects.remote:
        return
    usage = shutil.disk_usage(home.uri)
    low = usage.free < FREE * usage.total
    yield Finding(
        "disk",
        "warn" if low else "ok",
        f"{usage.free / 1e9:,.1f} GB of {usage.total / 1e9:,.1f} GB free",
        "tapstate maintain" if low else "",
    )


def _records(home: Home) -> Iterator[Finding]:
    counts = {name: len(list(getattr(home, name).all())) for name in ("ingests", "versions", "lines", "retired", "erasures", "receipts")}
    names = home.objects.names("lance")
    for name in names:
        home.tables.open(name.removesuffix(".lance"))
    yield Finding("records", "ok", ", ".join(f"{count} {name}" for name, count in counts.items()) + f", {len(names)} tables")


def _erasures(home: Home) -> Iterator[Finding]:
    finished = {n for receipt in home.receipts.all() for n in (receipt.number, *receipt.finishes)}
    cut_off = [e.number for e in home.erasures.all() if e.kind == "erase" and e.number not in finished]
    if cut_off:
        yield Finding("erasures", "fail", f"cut off: {', '.join(map(str, cut_off))}", "tapstate erase, with the same users, again")


def _clock(home: Home) -> Iterator[Finding]:
    now = datetime.now(UTC)
    records = [record for ledger in (home.ingests, home.versions) if (record := ledger.get(ledger.last()))]
    ahead = [record for record in records if record.created_at > now + AHEAD]
    if ahead:
        worst = max(ahead, key=lambda record: record.created_at)
        what = f"the newest record was written {worst.created_at - now} from now, by {worst.created_by}"
        yield Finding("clock", "fail", what, "timedatectl set-ntp true, here and there")
    last = home.ingests.get(home.ingests.last())
    if last and last.known_at_max and last.known_at_max > now + AHEAD:
        what = f"ingest {last.number} holds events that are known only from {last.known_at_max:%Y-%m-%d %H:%M} UTC on"
        yield Finding("clock", "warn", what, f"look at the clock of {', '.join(last.sources[:3])}")


def _leases(home: Home) -> Iterator[Finding]:
    for name in dead(home):
        yield Finding("leases", "warn", f"{name}: its holder is dead; the next one takes it over", "tapstate maintain --yes")
    for name, record in living(home).items():
        since = record.number * TERM / RENEWALS
        what = f"{name}: {record.work}, {record.created_by}, process {record.pid}, until {record.expires_at:%H:%M:%S} UTC"
        if since > STUCK:
            yield Finding("leases", "warn", f"{what}, renewed for {since}", f"kill {record.pid}, there, if it does not move")
        else:
            yield Finding("leases", "ok", what)


def _plans(home: Home) -> Iterator[Finding]:
    for folder, plan in pending(home).items():
        if not any(name.startswith("refresh-") for name in living(home)):
            yield Finding("plans", "warn", f"{folder}: a refresh of {len(plan.shards)} shards was cut off", "tapstate refresh")
    left = dead_plans(home)
    if left:
        yield Finding("plans", "warn", f"{len(left)} that can never be finished", "tapstate maintain --yes")


def _nights(home: Home) -> Iterator[Finding]:
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
    yield from _served(home, last)


def _served(home: Home, last: VersionRecord) -> Iterator[Finding]:
    production = current(home, PRODUCTION)
    wrong = complaint(last.checks)
    if wrong:
        yield Finding(
            "checks", "fail", f"version {last.number}: {wrong}", f"tapstate report {last.number}; then tapstate promote or refresh"
        )
    of_line = newest(home, home.versions.get(production).aggregator) if production else None  # type: ignore[union-attr]
    if production is None:
        yield Finding("production", "fail", "names no version", f"tapstate promote {last.number} --reason …")
    elif of_line and of_line.number != production:
        what = f"version {production} is served, version {of_line.number} of its line is newer"
        yield Finding("production", "warn", what, f"tapstate diff {production} {of_line.number}; tapstate promote {of_line.number}")
    served = BundleShelf(home).current()
    trained = production is not None and home.versions.get(production).trained  # type: ignore[union-attr]
    if trained and (served is None or served["version"] != production):
        what = "no bundle is served" if served is None else f"the bundle is of version {served['version']}, production is {production}"
        yield Finding("bundle", "warn", what, "tapstate bundle")


def _encoder(home: Home) -> Iterator[Finding]:
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


def _ingests(home: Home) -> Iterator[Finding]:
    records = list(home.ingests.range(max(0, home.ingests.last() - USUAL), home.ingests.last()))
    if not records:
        return
    last, before = records[-1], [record.accepted for record in records[:-1]]
    usual = median(before) if before else 0
    where = f"ingest {last.number} ({', '.join(last.sources[:2])})"
    if usual >= SOME and last.accepted < FEW * usual:
        what = f"{where} took {last.accepted:,} events, the {len(before)} before {usual:,.0f} at the median"
        yield Finding("ingests", "warn", what, "look for missing files and ingest them; what is there already counts as duplicate")
    if last.read >= SOME and last.rejected > REJECTED * last.read:
        what = f"{where} rejected {last.rejected:,} of {last.read:,} rows"
        yield Finding("ingests", "warn", what, 'tapstate sql "SELECT reason, count(*) FROM rejects GROUP BY reason"')
    yield from _loudest(home, last.number, where)


def _loudest(home: Home, number: int, where: str) -> Iterator[Finding]:
    """Whether one user makes too much of the newest ingest."""
    parts = [part.group_by("user_id").len() for part in EventLog(home).scan(["user_id"], after=number - 1, until=number)]
    if not parts:
        return
    counts = pl.concat(parts).group_by("user_id").sum().sort("len", "user_id", descending=True)
    total, (user, most) = int(counts["len"].sum()), counts.row(0)
    if len(counts) >= SOME / 10 and most >= SOME and most > ONE_USER * total:
        what = f"{where}: {Pseudonyms(home).name(user)} has {most:,} of {total:,} events"
        mend = 'tapstate sql "SELECT user_id, count(*) AS n FROM events GROUP BY user_id ORDER BY n DESC LIMIT 5"'
        yield Finding("users", "warn", what, mend)


CHECKS: tuple[Callable[[Home], Iterator[Finding]], ...] = (
    _packages,
    _gpu,
    _place,
    _disk,
    _records,
    _erasures,
    _clock,
    _leases,
    _plans,
    _nights,
    _encoder,
    _ingests,
)
