"""Reading a home from Python: look-ups and scans of any version, as Arrow or Polars.

    from store import open_store

    store = open_store("/data/tapstate")
    store.version("production").states(["alice", "bob"])
    store.version("2026-11-20").to_polars(["user_id", "event_count"], filter=pc.field("event_count") > 100)

User ids are data wherever they go: filters are typed expressions over columns, and look-ups go by hash, then by the id itself.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.compute import Expression

from schemas.errors import InputError
from schemas.keys import user_key
from schemas.records import VersionRecord
from schemas.states import StateSpec
from store.bundle import key_ranges
from store.comparison import Comparison, View, compare
from store.events import EventLog
from store.home import Home
from store.versions import aliases, kept, resolve

#: Users of one step of a scan, about.
STEP = 1 << 18
EVENT_COLUMNS = ("user_id", "event_id", "revision", "ts", "known_at", "text", "target", "value")


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
        for low, high in key_ranges(max(1, -(-self.record.users // STEP))):
            # Filtered once each user's row is known: an older row of theirs may pass where the one that counts does not.
            rows = self.view.states.read(self.record.runs, self.columns if filter is not None else wanted, low=low, high=high)
            yield (rows if filter is None else rows.filter(filter)).select(wanted)

    def to_arrow(self, columns: Sequence[str] | None = None, *, filter: Expression | None = None) -> pa.Table:
        """All of ``scan`` as one Arrow table."""
        return pa.concat_tables(self.scan(columns, filter=filter))

    def to_polars(self, columns: Sequence[str] | None = None, *, filter: Expression | None = None) -> pl.DataFrame:
        """All of ``scan`` as one Polars frame."""
        frame = pl.from_arrow(self.to_arrow(columns, filter=filter))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def compare(self, other: "Snapshot", *, top: int = 10) -> Comparison:
        """What differs from this version to ``other``."""
        return compare(self.view, other.view, top=top)

    def _columns(self, columns: Sequence[str] | None) -> list[str]:
        wanted = self.columns if columns is None else list(columns)
        for name in wanted:
            if name not in self.columns:
                raise InputError(
                    f"states have no column {name!r}", where=f"version {self.number}", mend=f"one of {', '.join(self.columns)}"
                )
        return wanted


class Store:
    """A home, opened for reading.

    Args:
        uri: directory or object-store URI of the home.

    Raises:
        HomeError: no home there, or one that this release cannot open.
    """

    def __init__(self, uri: str) -> None:
        self.home = Home(uri)

    def __repr__(self) -> str:
        names = [f"{name}={number}" for number, found in aliases(self.home).items() for name in found]
        return f"<Store {self.home.uri}: {self.home.versions.last()} versions{''.join(', ' + name for name in sorted(names))}>"

    def version(self, reference: str | int | datetime | None = None) -> Snapshot:
        """A version by number, alias, moment or ``alias@moment``; production's by default.

        Raises:
            NotFoundError: there is none.
        """
        return Snapshot(self.home, resolve(self.home, reference.isoformat() if isinstance(reference, datetime) else reference))

    def versions(self) -> pl.DataFrame:
        """Every version that can be read, oldest first: number, created_at, aggregator, encoder, parent and counts."""
        names = ("number", "created_at", "aggregator", "encoder", "parent", "users", "users_changed", "events", "events_new", "trained")
        return pl.DataFrame([record.model_dump(include=set(names)) for record in kept(self.home)], infer_schema_length=None)

    def events(self, user_ids: Sequence[str], columns: Sequence[str] = EVENT_COLUMNS) -> pl.DataFrame:
        """Current events of the given users, the latest revision of each, sorted by user and time."""
        keys = pl.Series([user_key(user) for user in user_ids], dtype=pl.Int64)
        wanted = list(dict.fromkeys([*columns, "user_id", "ts", "event_id"]))
        found = EventLog(self.home).current(wanted, after=0, until=self.home.ingests.last(), users=keys)
        mine = pl.Series(list(user_ids), dtype=pl.String)
        return found.filter(pl.col("user_id").is_in(mine.implode())).sort("user_id", "ts", "event_id").select(columns)
