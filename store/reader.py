"""Reading a home from Python: look-ups and scans of any version, as Arrow or Polars.

from store import open_store

store = open_store("/data/tapstate")
store.version("production").states(["alice", "bob"])
store.version("2026-11-20").to_polars(["user_id", "event_count"], filter=pc.field("event_count") > 100)
store.sql("SELECT user_id, event_count FROM states@12 ORDER BY event_count DESC LIMIT 10")
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from schemas.keys import user_key
from store.events import EventLog
from store.home import Home
from store.snapshot import Snapshot
from store.sql import EVENT_COLUMNS, Frame, explained, query
from store.versions import aliases, kept


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
        return Snapshot.of(self.home, reference)

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

    def sql(self, text: str, **frames: Frame) -> pl.DataFrame:
        """What a query finds in ``states``, ``states@VERSION``, ``events``, ``rejects`` and the given frames, of Polars or Arrow, by name.
        ``store.sql.query`` gives the lazy frame.

        Raises:
            InputError: it is not one reading statement over these tables.
            NotFoundError: no such version.
        """
        with explained(text):
            return query(self.home, text, frames).collect(engine="streaming")
