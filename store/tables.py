"""Lance tables of a home: one LanceDB database, appended to and scanned as Arrow streams.

LanceDB is the catalogue and what readers open; pylance writes, since it alone takes streams, staged fragments and typed filters
(ids and keys are data there, never spliced into a filter string).
"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from pyarrow.compute import Expression

from schemas.errors import ConflictError, HomeError, TapstateError
from store.objects import Objects

if TYPE_CHECKING:
    import lancedb

#: Rows of one batch of a scan.
BATCH_ROWS = 16_384


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

    def mark(self, name: str, schema: pa.Schema) -> int:
        """The table's present Lance version, to be taken before a writer looks at anything: what it then writes is refused if the
        table was fenced since (``store/purge.py``)."""
        return int(self.ensure(name, schema).version)

    def append(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], since: int) -> None:
        """Append a stream in one commit: all of it becomes visible, or nothing.

        Args:
            since: the writer's ``mark``.

        Raises:
            ConflictError: an erasure fenced the table since the mark.
        """
        self.commit(name, self._write(name, schema, pa.RecordBatchReader.from_batches(schema, batches), since))

    def stage(self, name: str, table: pa.Table, since: int) -> list[str]:
        """Write rows as fragments that no version of the table names yet; their descriptions as JSON."""
        return self._write(name, table.schema, table, since)

    def commit(self, name: str, fragments: Sequence[str]) -> None:
        """Make staged fragments part of the table, all at once.

        Raises:
            ConflictError: an erasure fenced the table since the earliest mark of a fragment.
        """
        if not fragments:
            return
        staged = [json.loads(fragment) for fragment in fragments]
        loaded = [lance.FragmentMetadata.from_json(json.dumps(part["fragment"])) for part in staged]
        since = min(part["since"] for part in staged)
        uri = f"{self.uri}/{name}.lance"
        try:
            lance.LanceDataset.commit(uri, lance.LanceOperation.Append(loaded), read_version=since)
        except OSError as error:
            lost = self._lost(name, since, error)
            if isinstance(lost, ConflictError) and (now := self.open(name)) is not None:
                # Unless a rival committed the very same rows before, nobody will name these files any more.
                named = data_files(now)
                Objects(uri).remove(f"data/{data.path}" for part in loaded for data in part.files if data.path not in named)
            raise lost from error

    def _write(self, name: str, schema: pa.Schema, data: pa.Table | pa.RecordBatchReader, since: int) -> list[str]:
        target = self.ensure(name, schema)
        try:
            fragments = lance.fragment.write_fragments(data, target, mode="append")
        except OSError as error:
            raise self._lost(name, since, error) from error
        return [json.dumps({"since": since, "fragment": fragment.to_json()}) for fragment in fragments]

    def _lost(self, name: str, since: int, error: OSError) -> TapstateError:
        """Why a write failed: a fence between, or the disk."""
        now = self.open(name)
        gone = "not found" in str(error).lower() or "no such file" in str(error).lower()
        if isinstance(error, CommitConflictError) or (gone and now is not None and now.version > since):
            return ConflictError(f"{name} was purged while rows for it were written", where=self.uri, mend="run the command again")
        return HomeError(f"cannot append to {name}: {error}", where=self.uri, mend="check free space and permissions, then run it again")

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


def data_files(dataset: lance.LanceDataset) -> set[str]:
    """Names of the data files that a table's fragments are made of."""
    return {data.path for fragment in dataset.get_fragments() for data in fragment.metadata.files}
