"""Lance tables of a home: one LanceDB database, appended to and scanned as Arrow streams.

LanceDB is the catalogue and what readers open; pylance writes, since it alone takes streams, staged fragments and typed filters
(ids and keys are data there, never spliced into a filter string).
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import numpy.typing as npt
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
        table was fenced since (see ``fence``)."""
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
            # Unless a rival committed the very same rows before, nobody will name these files any more.
            if isinstance(error, CommitConflictError) and (now := self.open(name)) is not None:
                named = _files(now)
                Objects(uri).remove(f"data/{data.path}" for part in loaded for data in part.files if data.path not in named)
            raise self._lost(name, since, error) from error

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
        if isinstance(error, CommitConflictError) or (now is not None and now.version > since and "not found" in str(error).lower()):
            return ConflictError(f"{name} was purged while rows for it were written", where=self.uri, mend="run the command again")
        return HomeError(f"cannot append to {name}: {error}", where=self.uri, mend="check free space and permissions, then run it again")

    def fence(self, name: str) -> lance.LanceDataset | None:
        """Refuse every write to the table that was begun before now, and remove the files such writers left; None if there is no table.

        The commit changes nothing, but is of the kind (a merge of columns) that Lance lets no earlier append, rewrite or update pass.
        Whatever lies in ``data/`` before it and is named by no fragment after it belongs to a refused or a dead writer.
        """
        files = Objects(f"{self.uri}/{name}.lance")
        while True:
            dataset = self.open(name)
            if dataset is None:
                return None
            there = files.names("data")
            operation = lance.LanceOperation.Merge([f.metadata for f in dataset.get_fragments()], dataset.lance_schema)
            try:
                fenced = lance.LanceDataset.commit(dataset.uri, operation, read_version=dataset.version, max_retries=0)
            except OSError as error:
                if self._moved(error):
                    continue
                raise
            named = _files(fenced)
            files.remove(f"data/{path}" for path in there if path not in named)
            return fenced

    def fenced(self, name: str, since: int) -> bool:
        """Whether the table was fenced since a ``mark``."""
        dataset = self.open(name)
        if dataset is None or dataset.version == since:
            return False
        known = [version["version"] for version in dataset.versions()]
        done = (dataset.read_transaction(number) for number in known if number > since)
        # Versions that are gone were dropped by a purge.
        return since not in known or any(isinstance(t.operation, lance.LanceOperation.Merge) for t in done if t)

    def purge(self, name: str, filter: Expression, instead: pa.Table | None = None) -> int:
        """Remove the rows that pass ``filter`` physically: from data files, older Lance versions and indices; and what writers
        begun before may have left of them. Returns how many rows there were.

        Only the fragments that hold such a row are rewritten, as streams; other writers go on or are told to begin again. Killed and
        run again, it completes.

        Args:
            filter: on columns that are never null; values are data in it.
            instead: rows to put in their place, in the same commit.
        """
        removed = 0
        while True:
            dataset = self.fence(name)
            if dataset is None:
                return removed
            scanned = dataset.scanner(columns=[], filter=filter, with_row_address=True).to_batches()
            rows = np.sort(np.concatenate([np.empty(0, np.uint64), *(b.column("_rowaddr").to_numpy() for b in scanned)]))
            if not len(rows) and instead is None:
                break
            try:
                self._rewrite(dataset, rows, instead)
            except OSError as error:
                if self._moved(error):
                    continue
                raise
            removed, instead = removed + len(rows), None
        self._forget(name)
        return removed

    def _rewrite(self, dataset: lance.LanceDataset, rows: npt.NDArray[np.uint64], instead: pa.Table | None) -> None:
        """Replace the fragments that hold ``rows`` (sorted addresses) by ones without them."""
        held = set(np.unique(rows >> np.uint64(32)).tolist())
        fragments = [f for f in dataset.get_fragments() if f.fragment_id in held]

        def kept() -> Iterator[pa.RecordBatch]:
            if fragments:
                for batch in dataset.scanner(fragments=fragments, with_row_address=True, batch_size=BATCH_ROWS).to_batches():
                    stay = ~np.isin(batch.column("_rowaddr").to_numpy(), rows)
                    if stay.any():
                        yield batch.drop_columns(["_rowaddr"]).filter(pa.array(stay)).cast(dataset.schema)
            if instead is not None and instead.num_rows:
                yield from instead.cast(dataset.schema).to_batches()

        batches = kept()
        first = next(batches, None)
        new = []
        if first is not None:
            reader = pa.RecordBatchReader.from_batches(dataset.schema, itertools.chain([first], batches))
            new = lance.fragment.write_fragments(reader, dataset, mode="append")
        operation = lance.LanceOperation.Update(removed_fragment_ids=sorted(held), new_fragments=new)
        lance.LanceDataset.commit(dataset.uri, operation, read_version=dataset.version)

    def _forget(self, name: str) -> None:
        """Build indices anew and drop every older Lance version: both may still hold removed rows."""
        while True:
            dataset = self.open(name)
            assert dataset is not None
            try:
                for index in dataset.list_indices():
                    kind: Any = index["type"].upper()
                    dataset.create_scalar_index(index["fields"][0], kind, name=index["name"], replace=True)
                dataset = self.open(name)
                assert dataset is not None
                dataset.cleanup_old_versions(older_than=timedelta(0))
                return
            except OSError as error:
                if not self._moved(error):
                    raise

    @staticmethod
    def _moved(error: OSError) -> bool:
        """Whether another writer's commit, or another purge's cleaning, came between: look again."""
        return isinstance(error, CommitConflictError) or "not found" in str(error).lower() or "conflict" in str(error).lower()

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


def _files(dataset: lance.LanceDataset) -> set[str]:
    """Names of the data files that a table's fragments are made of."""
    return {data.path for fragment in dataset.get_fragments() for data in fragment.metadata.files}
