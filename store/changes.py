"""Changes: what differs between two versions' rows of some users. Those of disjoint users add up, so shards can tell their own."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from schemas.states import StateSpec
from store.measures import cosine_shift

#: Movers and growers that are named.
TOP = 10


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
class Changes:
    """What differs between ``before`` and ``after``.

    Attributes:
        appeared, vanished: users that only one of the two has.
        rewritten: users of both whose state was written anew (of one line; else 0).
        moved: those of them whose vector is another one.
        shifts: float32, ``1 − cos`` of every rewritten user.
        movers: those who moved most, the farthest first.
        growers: those whose events changed most in number, new users among them.
    """

    appeared: int = 0
    vanished: int = 0
    rewritten: int = 0
    moved: int = 0
    shifts: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    movers: list[Mover] = field(default_factory=list)
    growers: list[Grower] = field(default_factory=list)

    @classmethod
    def of(cls, old: pa.Table, new: pa.Table, spec: StateSpec | None, top: int = TOP) -> "Changes":
        """Changes from rows ``old`` to rows ``new`` of the same users, one row a user.

        Args:
            spec: tells both versions' vectors; None where vectors cannot be compared, and ids and events alone are.
        """
        found = cls()
        rows = _frame(old, "before").join(_frame(new, "after"), on="user_id", how="full", coalesce=True)
        found.appeared, found.vanished = int(rows["before"].null_count()), int(rows["after"].null_count())
        found.growers = _grown(rows, top)
        if spec:
            both = rows.drop_nulls(["before", "after"])
            a, b = spec.vectors(old)[both["before"].to_numpy()], spec.vectors(new)[both["after"].to_numpy()]
            found.rewritten, found.moved = len(both), int((a != b).any(1).sum())
            found.shifts = cosine_shift(a, b)
            found.movers = _farthest(both, found.shifts, top)
        return found

    def add(self, other: "Changes", top: int = TOP) -> None:
        """Take in the changes of other users, but for ``shifts``: ``gather`` joins those of all parts at once."""
        for name in ("appeared", "vanished", "rewritten", "moved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.movers = sorted([*self.movers, *other.movers], key=lambda m: (-np.nan_to_num(m.shift, nan=np.inf), m.user_id))[:top]
        self.growers = sorted([*self.growers, *other.growers], key=lambda g: (-abs(g.events_after - g.events_before), g.user_id))[:top]

    def to_json(self) -> dict[str, Any]:
        """As plain values; four bytes a rewritten user."""
        return {
            **{name: getattr(self, name) for name in ("appeared", "vanished", "rewritten", "moved")},
            "shifts": base64.b64encode(self.shifts.astype("<f4").tobytes()).decode(),
            "movers": [asdict(mover) for mover in self.movers],
            "growers": [asdict(grower) for grower in self.growers],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Changes":
        """What ``to_json`` wrote."""
        lists = {"movers": [Mover(**m) for m in data["movers"]], "growers": [Grower(**g) for g in data["growers"]]}
        return cls(**{**data, **lists, "shifts": np.frombuffer(base64.b64decode(data["shifts"]), "<f4")})


def _frame(table: pa.Table, name: str) -> pl.DataFrame:
    """Ids, row numbers and events of a table of states."""
    frame = pl.DataFrame(
        {"user_id": pl.Series(table.column("user_id"), dtype=pl.String), f"events_{name}": pl.Series(table.column("event_count"))}
    )
    return frame.with_row_index(name)


def _farthest(rows: pl.DataFrame, shift: npt.NDArray[np.float32], top: int) -> list[Mover]:
    best = np.argsort(-np.nan_to_num(shift, nan=np.inf), kind="stable")[:top]
    chosen = rows.select("user_id", "events_before", "events_after")[best]
    return [Mover(user, float(s), n, m) for s, (user, n, m) in zip(shift[best], chosen.iter_rows(), strict=True) if s != 0]


def _grown(rows: pl.DataFrame, top: int) -> list[Grower]:
    columns = rows.select("user_id", pl.col("events_before", "events_after").fill_null(0).cast(pl.Int64))
    grown = (pl.col("events_after") - pl.col("events_before")).abs()
    most = columns.filter(grown > 0).sort(grown, "user_id", descending=[True, False]).head(top)
    return [Grower(*row) for row in most.iter_rows()]
