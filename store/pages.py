"""Pages: the newest records of a ledger, and an ingest's rejects, a few at a time."""

from collections.abc import Iterator

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.events import REJECTS
from schemas.records import IngestRecord
from store.events import REJECTS_TABLE
from store.frames import to_polars
from store.home import Home
from store.records import Ledger, R

#: Rows of one page.
PAGE = 50


def newest_first(ledger: Ledger[R], before: int | None = None) -> Iterator[R]:
    """Records of a ledger below number ``before`` (all by default), read one at a time."""
    last = ledger.last()
    for number in range(min(last, before - 1) if before else last, 0, -1):
        record = ledger.get(number)
        if record is not None:
            yield record


def rejects(home: Home, ingest: IngestRecord, offset: int, rows: int = PAGE) -> pl.DataFrame:
    """Rows ``offset … offset + rows`` of an ingest's rejects: source, line, reason, raw."""
    columns = ["source", "line", "reason", "raw"]
    batches = list(home.tables.scan(REJECTS_TABLE, columns, filter=pc.field("ingest") == ingest.run, offset=offset, limit=rows))
    schema = pa.schema([REJECTS.field(name) for name in columns])
    return to_polars(pa.Table.from_batches([batch.cast(schema) for batch in batches], schema=schema))
