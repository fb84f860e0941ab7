"""The event log: rows that an ingest's record names, the latest revision of each event counting."""

from collections import Counter
from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.events import DELETE, EVENTS, REJECTS
from schemas.records import IngestRecord
from store.frames import to_polars
from store.home import Home

EVENTS_TABLE, REJECTS_TABLE = "events", "rejects"


class EventLog:
    """Events of a home.

    Args:
        home: the home.
    """

    def __init__(self, home: Home) -> None:
        self.home = home

    def mark(self) -> tuple[int, int]:
        """Marks of events and rejects, to be taken before the denylist is read: see ``Tables.mark``."""
        return self.home.tables.mark(EVENTS_TABLE, EVENTS), self.home.tables.mark(REJECTS_TABLE, REJECTS)

    def append(self, batches: Iterator[pa.RecordBatch], since: int) -> None:
        """Append rows of ``schemas.events.EVENTS``; they count once a record names their ``ingest`` tag.

        Raises:
            ConflictError: an erasure came since the mark.
        """
        self.home.tables.append(EVENTS_TABLE, EVENTS, batches, since)

    def append_rejects(self, batches: Iterator[pa.RecordBatch], since: int) -> None:
        """Append rows of ``schemas.events.REJECTS``, as ``append`` does."""
        self.home.tables.append(REJECTS_TABLE, REJECTS, batches, since)

    def runs(self, after: int, until: int) -> list[int]:
        """Tags of the rows of ingests ``after + 1 … until``."""
        return [record.run for record in self.home.ingests.range(after, until)]

    def lookup(self, event_keys: Sequence[int] | pl.Series, until: int) -> pl.DataFrame:
        """Every counted revision of the given event keys: user_id, event_id, event_key, content_key, revision, known_at."""
        columns = ["user_id", "event_id", "event_key", "content_key", "revision", "known_at", "ingest"]
        keys = pl.Series("event_key", event_keys, dtype=pl.Int64).to_numpy()
        table = self.home.tables.find(EVENTS_TABLE, EVENTS, columns, {"event_key": keys})
        runs = pl.Series(self.runs(0, until), dtype=pl.Int64)
        return to_polars(table).filter(pl.col("ingest").is_in(runs.implode())).drop("ingest")

    def scan(
        self, columns: Sequence[str], *, after: int, until: int, low: int | None = None, high: int | None = None, key: str = "user_key"
    ) -> Iterator[pl.DataFrame]:
        """Batches of the rows of ingests ``after + 1 … until``, every revision, within ``low <= key <= high``."""
        wanted = [*columns, *({"ingest"} - set(columns))]
        runs = pl.Series(self.runs(after, until), dtype=pl.Int64)
        # With the fragments known, a night's rows of some users are not looked for in an index of all rows of theirs, and those of all
        # ingests need no index: within an ingest, rows lie sorted by user.
        within = pc.field("ingest").isin(runs.to_arrow()) if after else None
        span = (key, low, high) if low is not None and high is not None and key == "user_key" else None
        filters = [] if within is None else [within]
        if low is not None:
            filters.append(pc.field(key) >= low)
        if high is not None:
            filters.append(pc.field(key) <= high)
        filter = None
        for part in filters:
            filter = part if filter is None else filter & part
        for batch in self.home.tables.scan(EVENTS_TABLE, wanted, schema=EVENTS, filter=filter, within=within, span=span):
            frame = to_polars(pa.Table.from_batches([batch]))
            yield frame.filter(pl.col("ingest").is_in(runs.implode())).select(columns)

    def current(
        self,
        columns: Sequence[str],
        *,
        after: int,
        until: int,
        low: int | None = None,
        high: int | None = None,
        users: pl.Series | None = None,
    ) -> pl.DataFrame:
        """The latest revision of each event, deleted ones left out, of a range of user keys or of some users' keys."""
        wanted = list(dict.fromkeys([*columns, "user_id", "event_id", "revision", "op"]))
        if users is None:
            parts = list(self.scan(wanted, after=after, until=until, low=low, high=high))
            frame = pl.concat(parts) if parts else to_polars(pa.schema([EVENTS.field(c) for c in wanted]).empty_table())
        else:
            table = self.home.tables.find(EVENTS_TABLE, EVENTS, list(dict.fromkeys([*wanted, "ingest"])), {"user_key": users.to_numpy()})
            runs = pl.Series(self.runs(after, until), dtype=pl.Int64)
            frame = to_polars(table).filter(pl.col("ingest").is_in(runs.implode()))
        latest = frame.filter(pl.col("revision") == pl.col("revision").max().over("user_id", "event_id"))
        return latest.filter(pl.col("op") != DELETE).unique(["user_id", "event_id"], maintain_order=True).select(columns)

    def rejects(self, until: int) -> pl.DataFrame:
        """Every counted reject."""
        table = self.home.tables.read(REJECTS_TABLE, REJECTS, REJECTS.names)
        return to_polars(table).filter(pl.col("ingest").is_in(pl.Series(self.runs(0, until), dtype=pl.Int64).implode()))

    def reasons(self, after: int, until: int) -> dict[str, int]:
        """Kept rejects of ingests ``after + 1 … until`` by reason, the most frequent first."""
        found: Counter[str] = Counter()
        filter = pc.field("ingest").isin(pa.array(self.runs(after, until), pa.int64()))
        for batch in self.home.tables.scan(REJECTS_TABLE, ["reason"], filter=filter):
            found.update(dict(pl.Series("reason", batch.column("reason")).value_counts().iter_rows()))
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def known_at_max(self, records: Sequence[IngestRecord]) -> int | None:
        """Latest knowledge time among ingests, seconds since 1970."""
        times = [int(record.known_at_max.timestamp()) for record in records if record.known_at_max]
        return max(times, default=None)
