"""Comparison: what differs between two versions.

Of one line, only the users are read whom the runs wrote that one of the two has and the other has not: the cost follows the change.
Of two lines, whose vectors live in different spaces, users are matched by id, and only measures are taken that no rotation changes, on
a panel. The panel is a range of user keys, which are hashes: a random sample that stays the same from version to version.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from schemas.keys import content_hash
from schemas.records import VersionRecord
from schemas.states import StateSpec
from store.bundle import key_ranges
from store.home import Home
from store.measures import alignment, cosine_shift, neighbour_overlap
from store.models import Models
from store.states import States

#: Fewest users of a panel in a home that has as many.
PANEL = 512
#: Users looked at in one step, and changed users beyond which all are looked at.
STEP, MANY = 32_768, 8_000_000
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
ABOUT = ["user_id", "event_count"]


@dataclass(frozen=True)
class View:
    """The states of one version, recorded or about to be.

    Attributes:
        runs: the runs that make it up, oldest first.
        users: how many it has.
    """

    states: States
    spec: StateSpec
    runs: tuple[int, ...]
    users: int

    @classmethod
    def of(cls, home: Home, version: VersionRecord) -> "View":
        """The view of a recorded version."""
        spec = Models(home).spec(version.aggregator)
        return cls(States(home, version.aggregator, spec), spec, version.runs, version.users)

    def panel(self, seed: int, of: int, columns: Sequence[str], size: int | None = None) -> pa.Table:
        """Rows of ``size`` (by default ``PANEL``) to twice as many users, for a home of ``of`` users; the same users for a like size."""
        # A power of two, so that a growing home keeps its panel until it has doubled.
        share = 2.0 ** -max(0, int(np.floor(np.log2(max(1, of) / (size or PANEL)))))
        width = min(2**64, int(share * 2**64))
        low = -(2**63) + int(content_hash("panel", str(seed))[:16], 16) % (2**64 - width + 1)
        return self.states.read(self.runs, columns, low=low, high=low + width - 1)


@dataclass(frozen=True)
class Mover:
    """A user who moved: by ``1 − cos``, and the events behind both states."""

    user_id: str
    shift: float
    events_before: int
    events_after: int


@dataclass(frozen=True)
class Grower:
    """A user whose events became more or fewer; 0 where a version does not have them."""

    user_id: str
    events_before: int
    events_after: int


@dataclass
class Comparison:
    """What differs between ``before`` and ``after``.

    Attributes:
        one_line: whether both are of one aggregator, so that vectors can be compared as they are.
        appeared, vanished: users that only one of the two has.
        rewritten: users of both whose state was written anew (of one line; else 0).
        moved: those of them whose vector is another one.
        shifts: float32, ``1 − cos`` of every rewritten user.
        movers: those who moved most, the farthest first.
        growers: those whose events changed most in number, new users among them.
        panel: users of the panel that both have.
        before, after: their vectors, ``[panel, d]`` and ``[panel, d']``.
    """

    one_line: bool
    appeared: int = 0
    vanished: int = 0
    rewritten: int = 0
    moved: int = 0
    shifts: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    movers: list[Mover] = field(default_factory=list)
    growers: list[Grower] = field(default_factory=list)
    panel: list[str] = field(default_factory=list)
    before: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    after: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def quantiles(self) -> dict[str, float]:
        """Quantiles of ``shifts``; empty if nobody's state was written anew."""
        if not len(self.shifts):
            return {}
        return dict(zip(QUANTILES, np.quantile(self.shifts, list(QUANTILES.values())).astype(float).tolist(), strict=True))

    @cached_property
    def overlap(self) -> float:
        """Neighbour overlap@10 on the panel."""
        return neighbour_overlap(self.before, self.after)

    @cached_property
    def alignment(self) -> float:
        """Linear CKA on the panel."""
        return alignment(self.before, self.after)


def compare(before: View, after: View, *, seed: int = 0, top: int = 10) -> Comparison:
    """Compare two versions; memory is that of a step and 4 bytes a rewritten user.

    Args:
        seed: picks the panel.
        top: how many movers to name.
    """
    found = Comparison(one_line=before.states.name == after.states.name)
    shifts: list[npt.NDArray[np.float32]] = []
    for old, new in _steps(before, after, found.one_line):
        rows = _frame(old, "before").join(_frame(new, "after"), on="user_id", how="full", coalesce=True)
        found.appeared += int(rows["before"].null_count())
        found.vanished += int(rows["after"].null_count())
        _keep_grown(found.growers, rows, top)
        if not found.one_line:
            continue
        both = rows.drop_nulls(["before", "after"])
        found.rewritten += len(both)
        a = before.spec.vectors(old)[both["before"].to_numpy()]
        b = after.spec.vectors(new)[both["after"].to_numpy()]
        shift = cosine_shift(a, b)
        shifts.append(shift)
        found.moved += int((a != b).any(1).sum())
        _keep_farthest(found.movers, both, shift, top)
    found.shifts = np.concatenate(shifts) if shifts else found.shifts
    _fill_panel(found, before, after, seed)
    return found


def compare_panels(before: View, after: View, *, seed: int = 0) -> Comparison:
    """What the panels alone tell, at the cost of the panels: for two lines, where everybody differs."""
    found = Comparison(one_line=before.states.name == after.states.name)
    _fill_panel(found, before, after, seed)
    return found


def _steps(before: View, after: View, one_line: bool) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Rows of both versions, users in turns: those who may differ."""
    columns = [[*ABOUT, *(v.spec.vector_columns if one_line else ())] for v in (before, after)]
    keys = _written(before, after) if one_line else None
    if keys is None:
        for low, high in key_ranges(max(1, -(-max(before.users, after.users) // STEP))):
            yield tuple(v.states.read(v.runs, c, low=low, high=high) for v, c in zip((before, after), columns, strict=True))
        return
    for start in range(0, len(keys), STEP):
        part = keys[start : start + STEP]
        yield tuple(v.states.read(v.runs, c, keys=part) for v, c in zip((before, after), columns, strict=True))


def _written(before: View, after: View) -> npt.NDArray[np.int64] | None:
    """Keys of the users that only one of the versions' runs wrote; None if they are too many to tell apart from all."""
    differing = sorted(set(before.runs) ^ set(after.runs))
    keys = np.zeros(0, np.int64)
    pending: list[npt.NDArray[np.int64]] = []
    held = 0
    for batch in after.states.written(differing):
        pending.append(batch)
        held += len(batch)
        if held > MANY:
            keys, pending, held = np.unique(np.concatenate([keys, *pending])), [], 0
            if len(keys) > MANY:
                return None
    return np.unique(np.concatenate([keys, *pending]))


def _frame(table: pa.Table, name: str) -> pl.DataFrame:
    """Ids, row numbers and events of a table of states."""
    frame = pl.DataFrame(
        {"user_id": pl.Series(table.column("user_id"), dtype=pl.String), f"events_{name}": pl.Series(table.column("event_count"))}
    )
    return frame.with_row_index(name)


def _keep_farthest(movers: list[Mover], rows: pl.DataFrame, shift: npt.NDArray[np.float32], top: int) -> None:
    best = np.argsort(-np.nan_to_num(shift, nan=np.inf), kind="stable")[:top]
    chosen = rows.select("user_id", "events_before", "events_after")[best]
    movers += [Mover(user, float(s), n, m) for s, (user, n, m) in zip(shift[best], chosen.iter_rows(), strict=True) if s != 0]
    movers.sort(key=lambda mover: (-np.nan_to_num(mover.shift, nan=np.inf), mover.user_id))
    del movers[top:]


def _keep_grown(growers: list[Grower], rows: pl.DataFrame, top: int) -> None:
    columns = rows.select("user_id", pl.col("events_before", "events_after").fill_null(0).cast(pl.Int64))
    grown = (pl.col("events_after") - pl.col("events_before")).abs()
    most = columns.filter(grown > 0).sort(grown, "user_id", descending=[True, False]).head(top)
    growers += [Grower(*row) for row in most.iter_rows()]
    growers.sort(key=lambda grower: (-abs(grower.events_after - grower.events_before), grower.user_id))
    del growers[top:]


def _fill_panel(found: Comparison, before: View, after: View, seed: int) -> None:
    tables = [view.panel(seed, before.users, ["user_id", *view.spec.vector_columns]) for view in (before, after)]
    ids, others = (table.column("user_id").to_pylist() for table in tables)
    old, new = before.spec.vectors(tables[0]), after.spec.vectors(tables[1])
    place = {user: row for row, user in enumerate(others)}
    rows = [(row, place[user]) for row, user in enumerate(ids) if user in place]
    found.panel = [ids[row] for row, _ in rows]
    found.before = old[[row for row, _ in rows]]
    found.after = new[[row for _, row in rows]]
