"""SQL over a home, read-only: ``states`` (production's version), ``states@12``, ``states@candidate``, ``events`` and ``rejects``.

Polars plans and runs the query; each table is a source that reads what the plan asks for, in steps, so nothing is copied as a whole.
``events`` are the current ones: the latest revision of each, without those that were deleted.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from polars.io.plugins import register_io_source

from schemas.errors import InputError
from schemas.events import EVENTS, REJECTS
from store.events import REJECTS_TABLE, EventLog
from store.frames import to_polars
from store.home import Home
from store.snapshot import Snapshot, key_steps

EVENT_COLUMNS = ("user_id", "event_id", "revision", "ts", "known_at", "text", "target", "value", "task")
#: Of SQL alone: the number of the ingest that brought the revision.
INGEST = "ingest"
REJECT_COLUMNS = ("source", "line", "reason", "raw")
READS = ("select", "with", "explain", "show", "values", "from")
#: Literals and quoted names as they are, comments, and names of versions that SQL would not take without quotes.
_PARTS = re.compile(
    r"""(?P<kept>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<comment>--[^\n]*|/\*.*?\*/)|(?P<states>\bstates@[\w.:+-]*\w)""", re.DOTALL
)
#: Polars' table functions open files of this machine; a home's tables are all there is here. Looked for in literals too: no way of
#: quoting gets past that. And in a plan, leaves that are files: ours are "PYTHON SCAN" and frames.
_FILES = re.compile(r"read_(csv|parquet|ipc|json|ndjson|delta|avro)", re.IGNORECASE)
_FILE_SCAN = re.compile(r"^\W*(?!PYTHON\b)\w+ SCAN\b", re.MULTILINE | re.IGNORECASE)

Frame: TypeAlias = pl.DataFrame | pl.LazyFrame | pa.Table
Batches = Callable[[list[str]], Iterator[pl.DataFrame]]


def query(home: Home, text: str, frames: Mapping[str, Frame] | None = None) -> pl.LazyFrame:
    """The plan of a query; ``collect``, or a sink, runs it (within ``explained``).

    Args:
        frames: tables of the caller's, by name.

    Raises:
        InputError: it is not one reading statement over these tables; says what Polars says.
        NotFoundError: no such version.
    """
    text = _PARTS.sub(lambda part: part["kept"] or (f'"{part["states"]}"' if part["states"] else " "), text).strip().rstrip(";")
    bare = re.sub(r"'(?:[^']|'')*'", "''", text)
    names = {name.strip('"') for name in re.findall(r'"states@[^"]+"', bare)}
    first = re.match(r"\(*\s*(\w+)", bare)
    refused = InputError("only reading the home's own tables is allowed", where=text[:200], mend='tapstate sql "SELECT … FROM states"')
    if first is None or first[1].lower() not in READS or _FILES.search(text):
        raise refused
    tables = {name: table(home, name) for name in names}
    tables |= {name: table(home, name) for name in ("states", "events", "rejects") if re.search(rf"\b{name}\b", bare)}
    tables |= {name: to_polars(frame).lazy() if isinstance(frame, pa.Table) else frame.lazy() for name, frame in (frames or {}).items()}
    with explained(text), pl.SQLContext(frames=tables, eager=False) as context:
        plan = context.execute(text)
        if _FILE_SCAN.search(plan.explain(optimized=False)):
            raise refused
        plan.collect_schema()
        return plan


@contextmanager
def explained(text: str) -> Iterator[None]:
    """Turn what Polars raises while a query is planned or run into an ``InputError``."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        known = "states, states@VERSION, events, rejects"
        raise InputError(
            f"the query fails: {str(error).splitlines()[0]}", where=text[:200], mend=f"tables: {known}; Polars' SQL"
        ) from error


def table(home: Home, name: str) -> pl.LazyFrame:
    """One of the tables, by the name it has in a query.

    Raises:
        NotFoundError: no such version.
        InputError: no such table.
    """
    kind, _, reference = name.partition("@")
    if kind == "states":
        snapshot = Snapshot.of(home, reference or None)
        schema = pa.schema([snapshot.view.states.schema.field(column) for column in snapshot.columns])
        return _source(schema, partial(_states, snapshot), name)
    if name == "events":
        return _source(pa.schema([EVENTS.field(column) for column in (*EVENT_COLUMNS, INGEST)]), partial(_events, home), name)
    if name == "rejects":
        return _source(pa.schema([REJECTS.field(column) for column in REJECT_COLUMNS]), partial(_rejects, home), name)
    raise InputError(f"there is no table {name!r}", where=home.uri, mend="one of states, states@VERSION, events, rejects")


def _source(schema: pa.Schema, batches: Batches, name: str) -> pl.LazyFrame:
    """A lazy frame that reads columns, filters and stops early as a plan says."""

    def read(columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None) -> Iterator[pl.DataFrame]:
        left = rows
        for frame in batches(columns if columns is not None else schema.names):
            kept = frame if predicate is None else frame.filter(predicate)
            kept = kept if left is None else kept.head(left)
            yield kept
            if left is not None and (left := left - len(kept)) <= 0:
                return

    return register_io_source(read, schema=dict(to_polars(schema.empty_table()).schema), explain_name=name)


def _states(snapshot: Snapshot, columns: list[str]) -> Iterator[pl.DataFrame]:
    for part in snapshot.scan(columns):
        yield to_polars(part)


def _events(home: Home, columns: list[str]) -> Iterator[pl.DataFrame]:
    log, last = EventLog(home), home.ingests.last()
    records = list(home.ingests.range(0, last))
    numbers = {record.run: record.number for record in records}
    for low, high in key_steps(sum(record.accepted + record.corrected for record in records)):
        rows = log.current(columns, after=0, until=last, low=low, high=high)
        # A row's own tag is a random number.
        yield rows.with_columns(pl.col(INGEST).replace_strict(numbers, return_dtype=pl.Int64)) if INGEST in columns else rows


def _rejects(home: Home, columns: list[str]) -> Iterator[pl.DataFrame]:
    named = pc.field("ingest").isin(pa.array(EventLog(home).runs(0, home.ingests.last()), pa.int64()))
    for batch in home.tables.scan(REJECTS_TABLE, columns, filter=named):
        yield to_polars(pa.Table.from_batches([batch]))
