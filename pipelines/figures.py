"""Figures of a version: what its report tells, gathered from records, the night's events, changed users and a sample of the others.

Nothing here reads all states: the cost follows the users who changed, the events of the night, and the sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.errors import NotFoundError
from schemas.records import VersionRecord
from schemas.report import (
    About,
    Census,
    Change,
    Drift,
    Histogram,
    Intake,
    MovedUser,
    Night,
    Report,
    Sample,
    Spread,
    StageTime,
    StateMap,
    Work,
)
from store.comparison import Comparison, View, compare, compare_panels
from store.events import EventLog
from store.home import Home
from store.lines import Lines
from store.pseudonyms import Pseudonyms
from store.versions import PRODUCTION, aliases, counts, resolve

#: Users of the sample, to twice as many; bins of a histogram; reasons of rejects, and nights of a line, that are told.
SAMPLE, BINS, REASONS, NIGHTS = 1024, 40, 12, 30
QUANTILES = {"p1": 0.01, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
#: Lateness of events, in seconds, up to each bound.
LATENESS = {"before it happened": 0, "within an hour": 3_600, "within a day": 86_400, "within a week": 604_800, "within 30 days": 2_592_000}
LATER, OTHER, DEFAULT = "later", "other reasons", "default"
#: Shifts below are shown as one: float32 cannot tell them from none.
SHIFTS = np.geomspace(1e-6, 2.0, BINS + 1)

Floats = npt.NDArray[np.float64]


def figures(home: Home, version: VersionRecord, base: VersionRecord | None = None, known: Mapping[int, Comparison] | None = None) -> Report:
    """Every figure of a version's report.

    Args:
        base: compare with this version alone; by default with its parent, and with what ``production`` named when it was made.
        known: comparisons with other versions, by number, that were made already.
    """
    view, notes = View.of(home, version), list[str]()
    bases = [(base, ("asked for",))] if base else _bases(home, version, notes)
    against = bases[0][0] if bases else None
    until = version.last_ingest
    return Report(
        version=_about(home, version),
        work=_work(version),
        stages=tuple(StageTime(name=name, **stage.model_dump()) for name, stage in version.stages.items()),
        intake=_intake(home, min(until, against.last_ingest if against and against.aggregator == version.aggregator else 0), until),
        checks=version.checks,
        sample=_sample(home, version, view),
        drift=tuple(_drift(home, other, roles, version, view, (known or {}).get(other.number)) for other, roles in bases),
        changes=tuple(_changes(home, against, version, notes)) if against else (),
        nights=tuple(_nights(home, version)),
        notes=tuple(notes),
    )


def _bases(home: Home, version: VersionRecord, notes: list[str]) -> list[tuple[VersionRecord, tuple[str, ...]]]:
    moves = [move.version for move in home.aliases(PRODUCTION).all() if move.created_at <= version.created_at]
    wanted: dict[int, tuple[str, ...]] = {}
    for number, role in ((version.parent, "parent"), (moves[-1] if moves else None, "production")):
        if number and number != version.number:
            wanted[number] = (*wanted.get(number, ()), role)
    found = []
    for number, roles in wanted.items():
        try:
            found.append((resolve(home, number), roles))
        except NotFoundError as error:
            notes.append(f"nothing is told of the {' and '.join(roles)}: {error.what}")
    return found


def _about(home: Home, version: VersionRecord) -> About:
    users, events = counts(home, version)
    names = ("number", "created_at", "as_of", "code", "aggregator", "encoder", "personalizer", "trained", "parent")
    named = tuple(aliases(home).get(version.number, ()))
    return About(**version.model_dump(include=set(names)), aliases=named, users=users, events=events)


def _work(version: VersionRecord) -> Work:
    looked = version.texts_encoded + version.cache_hits
    names = ("users_changed", "events_new", "texts_encoded", "cache_hits", "seconds")
    return Work(**version.model_dump(include=set(names)), hit_rate=version.cache_hits / looked if looked else None)


def _intake(home: Home, after: int, until: int) -> Intake:
    log, records = EventLog(home), home.ingests.range(after, until)
    outcomes = ("accepted", "duplicate", "corrected", "rejected")
    sums = {name: sum(getattr(record, name) for record in records) for name in ("read", *outcomes)}
    reasons = log.reasons(after, until)
    told = dict(list(reasons.items())[:REASONS])
    if len(reasons) > REASONS:
        told[OTHER] = sum(reasons.values()) - sum(told.values())
    adds_up = sums["read"] == sum(sums[name] for name in outcomes)
    lateness = _lateness(log, after, until) if records else {}
    return Intake(first=after + 1, last=until, **sums, adds_up=adds_up, reasons=told, lateness=lateness)


def _lateness(log: EventLog, after: int, until: int) -> dict[str, int]:
    total = np.zeros(len(LATENESS) + 1, np.int64)
    bounds = np.array(list(LATENESS.values()), np.float64)
    for batch in log.scan(["ts", "known_at"], after=after, until=until):
        late = batch.drop_nulls().select((pl.col("known_at") - pl.col("ts")).dt.total_microseconds() / 1e6).to_series().to_numpy()
        # Known at the very moment is within the hour.
        place = np.where(late < 0, 0, np.maximum(1, np.searchsorted(bounds, late, side="left")))
        total += np.bincount(place, minlength=len(total))
    return dict(zip([*LATENESS, LATER], total.tolist(), strict=True))


def _sample(home: Home, version: VersionRecord, view: View) -> Sample:
    columns = ["event_count", "last_ts", *view.spec.vector_columns]
    rows = view.panel(home.config.seed, version.users, columns, SAMPLE)
    vectors = view.spec.vectors(rows).astype(np.float64)
    events = rows.column("event_count").to_numpy().astype(np.float64)
    last = np.array([at.timestamp() for at in rows.column("last_ts").to_pylist()], np.float64)
    days = np.round((version.as_of.timestamp() - last) / 86_400, 4)
    places, explained = _components(vectors)
    x, y = np.round(places, 4).T.tolist()
    return Sample(
        users=len(vectors),
        norms=_spread(_rms(vectors)),
        events=_spread(events),
        days=_spread(days),
        map=StateMap(explained=explained, x=x, y=y, days=days.tolist(), events=events.astype(np.int64).tolist()),
    )


def _rms(vectors: npt.NDArray[Any]) -> Floats:
    """Root mean square of each row, as the checks take it."""
    return np.sqrt(np.square(vectors, dtype=np.float64).sum(1) / max(1, vectors.shape[1]))


def _components(vectors: Floats) -> tuple[Floats, tuple[float, float]]:
    """Rows on their first two principal components, ``[n, 2]``, and the share of variance each holds."""
    rows = np.nan_to_num(vectors, posinf=0.0, neginf=0.0)
    rows = rows - rows.mean(0) if len(rows) else rows
    if min(rows.shape) < 2 or not rows.any():
        return np.zeros((len(rows), 2)), (0.0, 0.0)
    left, sizes, right = np.linalg.svd(rows, full_matrices=False)
    # A component's sign is arbitrary; its largest loading is made positive.
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(1)])
    shares = np.square(sizes) / np.square(sizes).sum()
    return left[:, :2] * sizes[:2] * signs, (float(shares[0]), float(shares[1]))


def _spread(values: npt.NDArray[Any], edges: npt.NDArray[Any] | None = None) -> Spread:
    finite = values[np.isfinite(values)].astype(np.float64)
    if edges is None:
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        # Wide enough for the bins to differ where all values are alike.
        high = max(high, low + abs(low) * 1e-9) if high > low else low + max(1.0, abs(low) * 1e-6)
        wide = low > 0 and high > 50 * low
        edges = np.geomspace(low, high, BINS + 1) if wide else np.linspace(low, high, BINS + 1)
        # What rounding moves past an end is still the smallest or the largest value.
        edges[0], edges[-1] = min(low, edges[0]), max(high, edges[-1])
    counts, _ = np.histogram(finite, edges)
    below = int((finite < edges[0]).sum())
    quantiles = dict(zip(QUANTILES, np.quantile(finite, list(QUANTILES.values())).tolist(), strict=True)) if len(finite) else {}
    histogram = Histogram(edges=edges.tolist(), counts=counts.tolist(), below=below, not_finite=len(values) - len(finite))
    return Spread(users=len(values), quantiles=quantiles, histogram=histogram)


def _drift(home: Home, base: VersionRecord, roles: tuple[str, ...], version: VersionRecord, view: View, known: Comparison | None) -> Drift:
    before, after = (counts(home, record)[0] for record in (base, version))
    old, seed = replace(View.of(home, base), users=before), home.config.seed
    one_line = base.aggregator == version.aggregator
    found = known or (compare(old, view, seed=seed) if one_line else compare_panels(old, view, seed=seed))
    call = Pseudonyms(home).name
    census = Census(
        before=before,
        appeared=found.appeared,
        vanished=found.vanished,
        after=after,
        adds_up=before + found.appeared - found.vanished == after,
    )
    return Drift(
        base=base.number,
        roles=roles,
        one_line=one_line,
        coverage=after / before if before else 1.0,
        users=census if one_line else None,
        rewritten=found.rewritten if one_line else None,
        moved=found.moved if one_line else None,
        shift=_spread(found.shifts, SHIFTS) if one_line and len(found.shifts) else None,
        panel=len(found.panel),
        overlap=found.overlap,
        cka=found.alignment,
        norms={name: _spread(_rms(rows)).quantiles for name, rows in (("before", found.before), ("after", found.after))},
        movers=tuple(
            MovedUser(user=call(m.user_id), shift=m.shift, events_before=m.events_before, events_after=m.events_after) for m in found.movers
        ),
        growers=tuple(
            MovedUser(user=call(g.user_id), shift=None, events_before=g.events_before, events_after=g.events_after) for g in found.growers
        ),
    )


def _changes(home: Home, base: VersionRecord, version: VersionRecord, notes: list[str]) -> list[Change]:
    """What of code, models and configuration differs."""
    lines = Lines(home)
    pairs: list[tuple[str, Any, Any]] = []
    pairs += [(name, getattr(base, name), getattr(version, name)) for name in ("code", "personalizer", "trained")]
    pairs += [(name, getattr(base, name)[:12], getattr(version, name)[:12]) for name in ("aggregator", "encoder")]
    if base.aggregator != version.aggregator:
        pairs += _differing("encoder", *(lines.encoder(record.aggregator).model_dump(mode="json") for record in (base, version)))
    if base.settings is None or version.settings is None:
        notes.append("the configuration of one of the two is not known: its record does not say")
    else:
        pairs += _differing("config", base.settings, version.settings, DEFAULT)
    return [Change(what=what, before=before, after=after) for what, before, after in pairs if before != after]


def _differing(kind: str, before: Mapping[str, Any], after: Mapping[str, Any], unsaid: Any = None) -> list[tuple[str, Any, Any]]:
    return [(f"{kind}: {key}", before.get(key, unsaid), after.get(key, unsaid)) for key in sorted({*before, *after})]


def _nights(home: Home, version: VersionRecord) -> Sequence[Night]:
    mine = [record for record in home.versions.all() if record.aggregator == version.aggregator and record.number <= version.number]
    names = ("created_at", "users", "users_changed", "events_new", "seconds")
    return [
        Night(
            version=record.number,
            failed=tuple(check.name for check in record.checks if not check.passed),
            **record.model_dump(include=set(names)),
        )
        for record in mine[-NIGHTS:]
    ]
