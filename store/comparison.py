"""Comparison: what differs between two versions.

Of one line, only the users are read whom the runs wrote that one of the two has and the other has not: the cost follows the change.
Of two lines, whose vectors live in different spaces, users are matched by id, and only measures are taken that no rotation changes, on
a panel. The panel is a range of user keys, which are hashes: a random sample that stays the same from version to version.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.keys import content_hash
from schemas.records import VersionRecord
from schemas.states import StateSpec
from store.bundle import key_ranges
from store.changes import TOP, Changes
from store.home import Home
from store.measures import alignment, neighbour_overlap
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


@dataclass
class Comparison(Changes):
    """What differs between ``before`` and ``after``; beside the changes:

    Attributes:
        one_line: whether both are of one aggregator, so that vectors can be compared as they are.
        panel: users of the panel that both have.
        before, after: their vectors, ``[panel, d]`` and ``[panel, d']``.
    """

    one_line: bool = True
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


def compare(before: View, after: View, *, seed: int = 0, top: int = TOP) -> Comparison:
    """Compare two versions; memory is that of a step and 4 bytes a rewritten user.

    Args:
        seed: picks the panel.
        top: how many movers to name.
    """
    one_line = before.states.name == after.states.name
    steps = _steps(before, after, one_line)
    return gather(before, after, (Changes.of(old, new, after.spec if one_line else None, top) for old, new in steps), seed=seed, top=top)


def gather(before: View, after: View, parts: Iterable[Changes], *, seed: int = 0, top: int = TOP) -> Comparison:
    """The comparison that changes of all users who may differ add up to, at the cost of the panels."""
    found = Comparison(one_line=before.states.name == after.states.name)
    shifts = [found.shifts]
    for part in parts:
        found.add(part, top)
        shifts.append(part.shifts)
    found.shifts = np.concatenate(shifts)
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


def _fill_panel(found: Comparison, before: View, after: View, seed: int) -> None:
    tables = [view.panel(seed, before.users, ["user_id", *view.spec.vector_columns]) for view in (before, after)]
    ids, others = (table.column("user_id").to_pylist() for table in tables)
    old, new = before.spec.vectors(tables[0]), after.spec.vectors(tables[1])
    place = {user: row for row, user in enumerate(others)}
    rows = [(row, place[user]) for row, user in enumerate(ids) if user in place]
    found.panel = [ids[row] for row, _ in rows]
    found.before = old[[row for row, _ in rows]]
    found.after = new[[row for _, row in rows]]
