"""Lance tables of a home: one LanceDB database, appended to and scanned as Arrow streams.

LanceDB is the catalogue and what readers open; pylance writes, since it alone takes streams, staged fragments and typed filters
(ids and keys are data there, never spliced into a filter string).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.compute import Expression

from schemas.errors import HomeError

if TYPE_CHECKING:
    import lancedb

#: Rows of one batch of a scan.
BATCH_ROWS = 16_384
#: Values that are looked up by filter, at most; and rows of one batch of a pass over keys.
FEW = 1_000
PASS_ROWS = 262_144


class Tables:
    """The LanceDB database below ``<home>/lance``; any LanceDB client can open it.

    Args:
        uri: the home.
    """

    def __init__(self, uri: str) -> None:
        self.uri = f"{uri}/lance"
        self._database: lancedb.DBConnection | None = None

    @property
    def database(self) -> "lancedb.DBConnection":
        """The connection, opened on first use; its package takes over a second to import, which reading does not need."""
        if self._database is None:
            import lancedb

            self._database = lancedb.connect(self.uri)
        return self._database

    def names(self) -> list[str]:
        """Tables that exist."""
        return sorted(self.database.table_names(limit=10_000))

    def open(self, name: str) -> lance.LanceDataset | None:
        """The newest state of a table, or None if it is not there."""
        try:
            dataset: lance.LanceDataset = lance.dataset(f"{self.uri}/{name}.lance")
        except (ValueError, FileNotFoundError, OSError) as error:
            if "not found" in str(error).lower() or isinstance(error, FileNotFoundError):
                return None
            raise HomeError(f"cannot open table {name}: {error}", where=self.uri, mend="check permissions and the connection") from error
        return dataset

    def ensure(self, name: str, schema: pa.Schema) -> lance.LanceDataset:
        """The table, made empty if it was not there; two makers at once get the same one."""
        found = self.open(name)
        if found is not None:
            return found
        try:
            self.database.create_table(name, schema=schema, exist_ok=True)
        except Exception as error:
            if self.open(name) is None:
                raise HomeError(f"cannot create table {name}: {error}", where=self.uri, mend="check permissions and free space") from error
        found = self.open(name)
        assert found is not None
        return found

    def append(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Append a stream in one commit: all of it becomes visible, or nothing."""
        target = self.ensure(name, schema)
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        try:
            lance.write_dataset(reader, target.uri, mode="append")
        except OSError as error:
            raise HomeError(
                f"cannot append to {name}: {error}", where=self.uri, mend="check free space and permissions, then run it again"
            ) from error

    def stage(self, name: str, table: pa.Table) -> list[str]:
        """Write rows as fragments that no version of the table names yet; their descriptions as JSON."""
        target = self.ensure(name, table.schema)
        return [json.dumps(fragment.to_json()) for fragment in lance.fragment.write_fragments(table, target, mode="append")]

    def commit(self, name: str, fragments: Sequence[str]) -> None:
        """Make staged fragments part of the table, all at once; those that are already stay as they are."""
        target = self.open(name)
        assert target is not None
        held = {file.path for fragment in target.get_fragments() for file in fragment.metadata.files} if fragments else set()
        loaded = [lance.FragmentMetadata.from_json(fragment) for fragment in fragments]
        loaded = [fragment for fragment in loaded if not held.intersection(file.path for file in fragment.files)]
        if not loaded:
            return
        lance.LanceDataset.commit(target.uri, lance.LanceOperation.Append(loaded), read_version=target.version)

    def scan(
        self, name: str, columns: Sequence[str], *, filter: Expression | None = None, batch_rows: int = BATCH_ROWS, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        """Batches of the rows that pass ``filter``; nothing if the table is not there. Memory is bounded by a few batches."""
        dataset = self.open(name)
        if dataset is not None:
            yield from dataset.scanner(columns=list(columns), filter=filter, batch_size=batch_rows, **options).to_batches()

    def read(self, name: str, schema: pa.Schema, columns: Sequence[str], *, filter: Expression | None = None) -> pa.Table:
        """The rows that pass ``filter`` as one table; an empty one if the table is not there."""
        kept = pa.schema([schema.field(column) for column in columns])
        return pa.Table.from_batches([b.cast(kept) for b in self.scan(name, columns, filter=filter)], schema=kept)

    def find(self, name: str, schema: pa.Schema, columns: Sequence[str], among: Mapping[str, npt.NDArray[np.int64]]) -> pa.Table:
        """The rows whose int64 columns are among the given values, all of them.

        A few values are asked for by filter, which an index may serve. Many would make it visit every page anyway: one pass over the
        columns alone tells which rows to take, eight bytes a row and column, however wide the rows are.
        """
        kept = pa.schema([schema.field(column) for column in columns])
        if min(map(len, among.values())) <= FEW:
            filter = reduce(and_, (pc.field(column).isin(pa.array(values)) for column, values in among.items()))
            return self.read(name, schema, columns, filter=filter)
        dataset = self.open(name)
        if dataset is None:
            return kept.empty_table()
        sets = {column: pl.Series(values, dtype=pl.Int64).implode() for column, values in among.items()}
        found, at = [], 0
        for batch in dataset.scanner(columns=list(among), batch_size=PASS_ROWS).to_batches():
            frame = pl.DataFrame({column: pl.Series(batch.column(column)) for column in among})
            hits = frame.select(pl.all_horizontal(pl.col(column).is_in(values) for column, values in sets.items())).to_series()
            found.append(hits.arg_true().to_numpy().astype(np.int64) + at)
            at += len(frame)
        rows = np.concatenate(found) if found else np.zeros(0, np.int64)
        return dataset.take(rows, columns=list(columns)).cast(kept) if len(rows) else kept.empty_table()
