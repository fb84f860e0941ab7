"""Ingest: a source's rows become events, each row accounted for.

Rows are validated batch by batch and spooled to disk by user, so memory is bounded by one partition of the input. Each partition
is then compared with what the home holds, and all new rows are appended in one commit; an ingest record makes them count. If
another ingest took the record's number meanwhile, the comparison is made again against what that one added. Rows of erased users
are rejected; an erasure that comes while rows are written makes the attempt begin again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import polars_hash as plh
import pyarrow as pa

from pipelines.meter import Meter, Silent
from pipelines.sources import Source
from pipelines.validation import validate
from schemas.errors import ConflictError, CorruptError
from schemas.events import EVENTS, REJECTS
from schemas.records import IngestRecord
from store.denylist import Denylist
from store.events import REJECTS_TABLE, EventLog
from store.frames import to_polars
from store.home import Home, new_run, provenance
from store.lease import lease, unique
from store.scratch import scratch

#: Partitions of the spool, by the highest bits of the user key.
PARTITIONS = 64
#: Rows that are compared with the home's at a time, about.
GROUP_ROWS = 262_144
#: Rows of one appended batch.
BATCH_ROWS = 65_536


@dataclass
class Outcome:
    """What one attempt to commit counted."""

    accepted: int = 0
    duplicate: int = 0
    corrected: int = 0
    rejected: int = 0
    known_at_max: datetime | None = None


@dataclass
class Spool:
    """Validated rows on local disk: events by partition, rejects apart."""

    directory: Path
    read: int = 0
    rejected: int = 0
    damaged: list[str] = field(default_factory=list)
    _writers: dict[str, pa.ipc.RecordBatchStreamWriter] = field(default_factory=dict)

    def add(self, name: str, rows: pl.DataFrame) -> None:
        """Append rows to the file ``name``."""
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        if name not in self._writers:
            self._writers[name] = pa.ipc.new_stream(str(self.directory / name), table.schema)
        self._writers[name].write_table(table)

    def close(self) -> None:
        """Flush every file."""
        for writer in self._writers.values():
            writer.close()

    def partition(self, name: str) -> pl.DataFrame | None:
        """The rows of one file, in the order they came; None if there are none."""
        path = self.directory / name
        if not path.exists():
            return None
        return to_polars(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())

    def groups(self) -> Iterator[pl.DataFrame]:
        """Events by users in the order of keys: small partitions together, so that each look-up has many keys."""
        held: list[pl.DataFrame] = []
        for part in range(PARTITIONS):
            rows = self.partition(f"events-{part:02}")
            held += [rows] if rows is not None else []
            if held and (part == PARTITIONS - 1 or sum(map(len, held)) >= GROUP_ROWS):
                yield pl.concat(held)
                held = []


def ingest(home: Home, source: Source, *, historical: bool = False, meter: Meter | None = None) -> tuple[IngestRecord, list[str]]:
    """Read a source to its end and commit what is new.

    Args:
        historical: an event without a knowledge time was known when it happened, not now (for a first load).

    Returns:
        The record, where ``read = accepted + duplicate + corrected + rejected``, and what of the source was damaged.

    Raises:
        InputError: the source cannot be read at all.
        HomeError: the home cannot be written.
        CorruptError: rows were lost between being read and being committed; nothing counts.
    """
    meter = meter or Silent()
    log = EventLog(home)
    with scratch() as directory:
        spool = Spool(directory)
        meter.start("read", None, "rows")
        now = datetime.now(UTC)
        for batch in source.batches():
            events, rejects = validate(batch, now=now, historical=historical, run=0)
            _spool(spool, events.with_columns(source=pl.lit(batch.source)), rejects)
            if batch.damaged:
                spool.damaged.append(f"{batch.source}: {batch.damaged}")
            meter.advance("read", len(batch.rows) + len(batch.unreadable))
        spool.close()
        meter.finish("read")
        with lease(home, unique("ingest"), f"an ingest of {source.name}"):
            return _commit(home, log, spool, source.name, meter), spool.damaged


def _spool(spool: Spool, events: pl.DataFrame, rejects: pl.DataFrame) -> None:
    spool.read += len(events) + len(rejects)
    spool.rejected += len(rejects)
    if len(rejects):
        spool.add("rejects", rejects)
    if len(events):
        shift = 2**64 // PARTITIONS
        # Floor division keeps the order of signed keys: partition 0 holds the lowest.
        split = events.with_columns(partition=pl.col("user_key").floordiv(shift) + PARTITIONS // 2)
        for (part,), rows in split.partition_by("partition", as_dict=True, include_key=False, maintain_order=True).items():
            spool.add(f"events-{part:02}", rows)


def _commit(home: Home, log: EventLog, spool: Spool, name: str, meter: Meter) -> IngestRecord:
    while True:
        # The marks first: an erasure that this denylist does not know fences the tables after them, and the appends are refused.
        marks, denylist = log.mark(), Denylist.of(home)
        until, outcome = home.ingests.last(), Outcome(rejected=spool.rejected)
        run = new_run(until + 1)
        meter.start("commit", spool.read - spool.rejected, "rows")
        denied: list[pl.DataFrame] = []
        batches = _new_rows(log, spool, denylist, denied, run, until, outcome, meter)
        try:
            first = next(batches, None)
            if first is not None:
                log.append(_chain(first, batches), marks[0])
            _append_rejects(log, spool, denylist, denied, run, until, marks[1])
        except ConflictError:
            continue
        meter.finish("commit")
        told = outcome.accepted + outcome.duplicate + outcome.corrected + outcome.rejected
        if told != spool.read:
            # Rows on local disk went missing between being read and being committed; what was appended never counts.
            raise CorruptError(
                f"{spool.read:,} rows were read, but only {told:,} are accounted for",
                where=str(spool.directory),
                mend="see that nothing deletes temporary files (TMPDIR) meanwhile, then run it again",
            )
        record = IngestRecord.model_validate(
            {
                **provenance(),
                "number": until + 1,
                "run": run,
                "sources": (name,),
                "read": spool.read,
                **vars(outcome),
            }
        )
        if home.ingests.append(until + 1, record):
            return record


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _new_rows(
    log: EventLog, spool: Spool, denylist: Denylist, denied: list[pl.DataFrame], run: int, until: int, outcome: Outcome, meter: Meter
) -> Iterator[pa.RecordBatch]:
    """Rows that no ingest up to ``until`` holds, sorted by user and time, counted into ``outcome`` on the way.

    Args:
        denied: is given the rejects of users and events that were erased.
    """
    for rows in spool.groups():
        read = len(rows)
        rows, erased = denylist.screen(rows)
        denied.append(erased)
        outcome.rejected += len(erased)
        fresh = new_revisions(rows, log.lookup(rows["event_key"].unique(), until))
        outcome.duplicate += len(rows) - len(fresh)
        outcome.accepted += int((fresh["revision"] == 1).sum())
        outcome.corrected += int((fresh["revision"] > 1).sum())
        if len(fresh):
            latest = fresh["known_at"].max()
            assert isinstance(latest, datetime)
            outcome.known_at_max = max(latest, outcome.known_at_max or latest)
            fresh = fresh.with_columns(ingest=pl.lit(run, pl.Int64)).sort("user_key", "ts", "event_key", "revision").select(EVENTS.names)
            yield from _arrow(fresh, EVENTS)
        meter.advance("commit", read)


def new_revisions(rows: pl.DataFrame, existing: pl.DataFrame) -> pl.DataFrame:
    """The rows that add something, with their ``revision``.

    The first of an event is revision 1; of the others, the same content again adds nothing, other content is the next revision. Content
    that was replaced before comes back only with a stated knowledge time, later than all that is known of the event: a file read twice
    changes nothing, a correction taken back does.

    Args:
        rows: validated events, in the order they came; those of one event are taken in the order they were known.
        existing: every revision the home holds of their keys (``EventLog.lookup``).
    """
    # Most rows are of events that nobody told of before; what follows would look at each for nothing.
    alone = rows["event_key"].is_unique() & ~rows["event_key"].is_in(existing["event_key"].implode())
    first = rows.filter(alone).with_columns(revision=pl.lit(1, pl.Int32))
    return first if alone.all() else pl.concat([first, _next_revisions(rows.filter(~alone), existing)])


def _next_revisions(rows: pl.DataFrame, existing: pl.DataFrame) -> pl.DataFrame:
    """Of rows that meet others of their event, those that add something."""
    event = ["user_id", "event_id"]
    latest = (
        existing.sort("revision")
        .group_by(event)
        .agg(held=pl.col("revision").last(), held_content=pl.col("content_key").last(), held_known=pl.col("known_at").max())
    )
    seen = existing.select(*event, "content_key", seen=True).unique()
    joined = (
        rows.sort("known_at", maintain_order=True)
        .join(latest, on=event, how="left", maintain_order="left")
        .join(seen, on=[*event, "content_key"], how="left", maintain_order="left")
        .with_columns(seen=pl.col("seen").fill_null(False) | ~pl.struct(*event, "content_key").is_first_distinct(), adds=True)
    )
    while True:
        # What a row meets depends on which rows before it add something; each turn settles at least one more row of every event.
        content, known = (
            pl.when("adds").then(name).shift(1).forward_fill().over(event).fill_null(pl.col(held))
            for name, held in (("content_key", "held_content"), ("known_at", "held_known"))
        )
        back = pl.col("known_given") & (pl.col("known_at") > pl.max_horizontal(known, "held_known"))
        settled = joined.with_columns(adds=content.ne_missing(pl.col("content_key")) & (~pl.col("seen") | back))
        if settled["adds"].equals(joined["adds"]):
            break
        joined = settled
    revision = pl.col("held").fill_null(0) + pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(event)
    return joined.filter("adds").select(*rows.columns, revision=revision.cast(pl.Int32))


def _append_rejects(log: EventLog, spool: Spool, denylist: Denylist, denied: list[pl.DataFrame], run: int, until: int, since: int) -> None:
    """Keep the rejected rows that the home does not hold yet, from this very source and line."""
    faulty = spool.partition("rejects")
    columns = ["source", "line", "reason", "raw"]
    found = [*([denylist.withhold(faulty).select(columns)] if faulty is not None else []), *denied]
    rows = pl.concat(found, how="vertical_relaxed") if found else pl.DataFrame()
    if rows.is_empty():
        return
    parts = [pl.col(name).cast(pl.String).fill_null("") for name in ("source", "line", "reason", "raw")]
    key = plh.concat_str(parts, separator="\x00").nchash.xxh3_64().reinterpret(signed=True)
    rows = rows.with_columns(reject_key=key, ingest=pl.lit(run, pl.Int64)).unique("reject_key", keep="first", maintain_order=True)
    held = log.home.tables.read(REJECTS_TABLE, REJECTS, ["reject_key", "ingest"])
    named = pl.Series(log.runs(0, until), dtype=pl.Int64)
    keys = pl.Series(held.column("reject_key")).filter(pl.Series(held.column("ingest")).is_in(named.implode()))
    fresh = rows.filter(~pl.col("reject_key").is_in(keys.implode()))
    if len(fresh):
        log.append_rejects(_arrow(fresh.select(REJECTS.names), REJECTS), since)


def _arrow(frame: pl.DataFrame, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    yield from frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema).to_batches(max_chunksize=BATCH_ROWS)
