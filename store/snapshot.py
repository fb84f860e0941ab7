"""One version of all users' states: look-ups, scans, nearest users, as Arrow or Polars.

User ids are data wherever they go: filters are typed expressions over columns, and look-ups go by hash, then by the id itself.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.compute import Expression

from schemas.errors import InputError, NotFoundError
from schemas.keys import user_key
from schemas.records import VersionRecord
from schemas.states import StateSpec
from store.bundle import key_ranges
from store.comparison import Comparison, View, compare
from store.frames import to_polars
from store.home import Home
from store.measures import cosine_shift
from store.versions import aliases, resolve

#: Rows and bytes of one step of a scan, about, at most.
STEP, STEP_BYTES = 1 << 18, 1 << 28


def key_steps(rows: int, width: int = 0) -> Iterator[tuple[int, int]]:
    """Ranges of user keys that hold about ``STEP`` of ``rows`` rows of ``width`` bytes each, and no more than ``STEP_BYTES``."""
    return key_ranges(max(1, -(-rows // STEP), -(-rows * width // STEP_BYTES)))


class Snapshot:
    """One version of all users' states.

    Attributes:
        record: the version's record.
        spec: the columns of its states.
        columns: every column that can be read.
    """

    def __init__(self, home: Home, record: VersionRecord) -> None:
        self.home, self.record = home, record
        self.view = View.of(home, record)
        self.spec: StateSpec = self.view.spec
        self.columns: list[str] = [name for name in self.view.states.schema.names if name not in ("user_key", "run")]

    @classmethod
    def of(cls, home: Home, reference: str | int | datetime | None = None) -> "Snapshot":
        """A version by number, alias, moment or ``alias@moment``; production's by default.

        Raises:
            NotFoundError: there is none.
        """
        return cls(home, resolve(home, reference.isoformat() if isinstance(reference, datetime) else reference))

    @property
    def number(self) -> int:
        """Its number."""
        return self.record.number

    def __len__(self) -> int:
        return self.record.users

    def __repr__(self) -> str:
        r = self.record
        names = "".join(f" {name}" for name in aliases(self.home).get(r.number, []))
        made = f"{r.created_at:%Y-%m-%d %H:%M} UTC"
        return f"<version {r.number}{names}: {r.users:,} users, {r.events:,} events, line {r.aggregator[:12]}, {made}>"

    def states(self, user_ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """States of the given users, one row each in the order they are given; users who are not there have no row.

        Raises:
            InputError: no such column.
        """
        wanted = self._columns(columns)
        ids = list(dict.fromkeys(user_ids))
        if not ids:
            return pa.schema([self.view.states.schema.field(name) for name in wanted]).empty_table()
        keys = np.array([user_key(user) for user in ids], np.int64)
        found = self.view.states.read(self.record.runs, list(dict.fromkeys([*wanted, "user_id"])), keys=keys)
        order = pc.index_in(pa.array(ids, pa.string()), value_set=found.column("user_id").combine_chunks())
        return found.take(order.drop_null()).select(wanted)

    def scan(self, columns: Sequence[str] | None = None, *, filter: Expression | None = None) -> Iterator[pa.Table]:
        """Tables of the users that pass ``filter`` (of pyarrow, over any columns), in no order that means anything; memory is bounded.

        Raises:
            InputError: no such column.
        """
        wanted = self._columns(columns)
        # Filtered once each user's row is known: an older row of theirs may pass where the one that counts does not.
        read = self.columns if filter is not None else wanted
        for low, high in key_steps(self.record.users, self.spec.row_bytes(read)):
            rows = self.view.states.read(self.record.runs, read, low=low, high=high)
            yield (rows if filter is None else rows.filter(filter)).select(wanted)

    def to_arrow(self, columns: Sequence[str] | None = None, *, filter: Expression | None = None) -> pa.Table:
        """All of ``scan`` as one Arrow table."""
        return pa.concat_tables(self.scan(columns, filter=filter))

    def to_polars(self, columns: Sequence[str] | None = None, *, filter: Expression | None = None) -> pl.DataFrame:
        """All of ``scan`` as one Polars frame."""
        return to_polars(self.to_arrow(columns, filter=filter))

    def compare(self, other: "Snapshot", *, top: int = 10) -> Comparison:
        """What differs from this version to ``other``."""
        return compare(self.view, other.view, top=top)

    def similar(self, user_id: str, *, top: int = 10) -> pl.DataFrame:
        """The users whose vectors (``spec.vector_columns``, what ``compare`` measures on) have the largest cosine with a user's.

        Every user is looked at, in steps.

        Returns:
            user_id, cosine (float32) and event_count, the nearest first, ties by id.

        Raises:
            NotFoundError: no such user at this version.
        """
        columns = ["user_id", "event_count", *self.spec.vector_columns]
        mine = self.states([user_id], columns)
        if not mine.num_rows:
            raise NotFoundError(
                f"no user {user_id!r} at version {self.number}", where=self.home.uri, mend="tapstate versions; ids are exact, case included"
            )
        vector = self.spec.vectors(mine)
        nearest = pl.DataFrame(schema={"user_id": pl.String, "cosine": pl.Float32, "event_count": pl.Int64})
        for rows in self.scan(columns):
            cosine = 1 - cosine_shift(np.broadcast_to(vector, (rows.num_rows, vector.shape[1])), self.spec.vectors(rows))
            found = pl.DataFrame({"user_id": pl.Series(rows.column("user_id")), "cosine": cosine.astype(np.float32)}).with_columns(
                event_count=pl.Series(rows.column("event_count"))
            )
            nearest = pl.concat([nearest, found.filter(pl.col("user_id") != user_id).cast(nearest.schema)])
            nearest = nearest.sort(["cosine", "user_id"], descending=[True, False], nulls_last=True).head(top)
        return nearest

    def _columns(self, columns: Sequence[str] | None) -> list[str]:
        wanted = self.columns if columns is None else list(columns)
        for name in wanted:
            if name not in self.columns:
                raise InputError(
                    f"states have no column {name!r}", where=f"version {self.number}", mend=f"one of {', '.join(self.columns)}"
                )
        return wanted
