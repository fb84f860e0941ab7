"""Lance tables of a home: one LanceDB database, appended to and scanned as Arrow streams.

LanceDB is the catalogue and what readers open; pylance writes, since it alone takes streams, staged fragments and typed filters
(ids and keys are data there, never spliced into a filter string).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.compute import Expression

from schemas.errors import ConflictError, HomeError, TapstateError
from store.columns import there, whole
from store.conflicts import missing, replaced, rival
from store.failures import LANCE_ERRORS, damage, failure, short
from store.objects import Objects
from store.places import Pick, fragments, places
from store.zones import Zones

if TYPE_CHECKING:
    import lancedb

#: Rows of one batch of a scan.
BATCH_ROWS = 16_384
#: Values that are looked up by filter, at most.
FEW = 1_000
#: Times that a version of a table is taken hold of while others replace it.
ATTEMPTS = 6


def _unguarded() -> None:
    """Whoever writes holds no lease."""


class Tables:
    """The LanceDB database below ``<home>/lance``; any LanceDB client can open it.

    Args:
        objects: the home's small objects.

    Attributes:
        guard: called before every commit; raises when whoever writes should not go on (``store/lease.py`` sets it).
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.uri = f"{objects.uri}/lance"
        self.guard: Callable[[], None] = _unguarded
        self._zones = Zones()
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
        """The newest state of a table, or None if it is not there.

        Raises:
            CorruptError: its manifest cannot be read, or its rows are there without one.
            HomeError: the place cannot be read.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                dataset: lance.LanceDataset = lance.dataset(f"{self.uri}/{name}.lance")
            except (ValueError, OSError, pa.ArrowException) as error:
                text = str(error)
                if left and replaced(error):
                    # Maintenance removed the version that was the newest one when we looked; there is a newer one.
                    continue
                # Lance says "not found" of other things too; a table that is not there is one without manifests and without rows.
                if "was not found" in text and "_versions" in text:
                    if any(path.endswith((".lance", ".manifest")) for path in self.files(name)):
                        raise damage(self.uri, name, "its rows are there, its manifest is not") from error
                    return None
                raise failure(self.uri, "open", name, error) from error
            return dataset
        raise AssertionError

    def ensure(self, name: str, schema: pa.Schema) -> lance.LanceDataset:
        """The table, made empty if it was not there; two makers at once get the same one.

        One that an earlier release made gets the nullable columns that it lacks: a change of its schema alone, which appends that are
        under way pass.
        """
        found = self.open(name)
        if found is not None:
            return self._widened(name, schema, found)
        try:
            self.database.create_table(name, schema=schema, exist_ok=True, storage_options=_files(schema))
        except Exception as error:
            if self.open(name) is None:
                raise failure(self.uri, "create", name, error) from error
        found = self.open(name)
        assert found is not None
        return found

    def _widened(self, name: str, schema: pa.Schema, found: lance.LanceDataset) -> lance.LanceDataset:
        for left in reversed(range(ATTEMPTS)):
            lacking = [field for field in schema if field.nullable and field.name not in found.schema.names]
            if not lacking:
                break
            self.guard()
            try:
                found.add_columns(pa.schema(lacking))
            except LANCE_ERRORS as error:
                if not left or not rival(error):
                    raise failure(self.uri, "add columns to", name, error) from error
            newest = self.open(name)
            assert newest is not None
            found = newest
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
        failed: list[Exception] = []

        def watched() -> Iterator[pa.RecordBatch]:
            try:
                yield from batches
            except Exception as error:
                failed.append(error)
                raise

        try:
            fragments = self._write(name, schema, pa.RecordBatchReader.from_batches(schema, watched()), since)
        except TapstateError:
            if failed:
                # What went wrong in the stream says more than what Lance made of it.
                raise failed[0] from None
            raise
        self.commit(name, fragments)

    def stage(self, name: str, table: pa.Table, since: int) -> list[str]:
        """Write rows as fragments that no version of the table names yet; their descriptions as JSON."""
        return self._write(name, table.schema, table, since)

    def commit(self, name: str, fragments: Sequence[str]) -> None:
        """Make staged fragments part of the table, all at once; those that are already stay as they are.

        Raises:
            ConflictError: an erasure fenced the table since the earliest mark of a fragment.
            CorruptError: a fragment's file is gone.
        """
        if not fragments:
            return
        now = self.open(name)
        held = data_files(now) if now is not None else set()
        staged = [json.loads(fragment) for fragment in fragments]
        loaded = [lance.FragmentMetadata.from_json(json.dumps(part["fragment"])) for part in staged]
        loaded = [fragment for fragment in loaded if not held.intersection(file.path for file in fragment.files)]
        if not loaded:
            return
        since = min(part["since"] for part in staged)
        files = self.files(name)
        gone = [file.path for fragment in loaded for file in fragment.files if f"data/{file.path}" not in files]
        now = self.open(name)
        if gone and (now is None or now.version == since):
            raise damage(self.uri, name, f"{len(gone)} staged files are gone", mend="tapstate maintain --yes, then run it again")
        self.guard()
        try:
            lance.LanceDataset.commit(f"{self.uri}/{name}.lance", lance.LanceOperation.Append(loaded), read_version=since)
        except LANCE_ERRORS as error:
            lost = self.lost("append to", name, since, error)
            if isinstance(lost, ConflictError) and (now := self.open(name)) is not None:
                # Unless a rival committed the very same rows before, nobody will name these files any more.
                named = data_files(now)
                self.objects.remove(*(f"lance/{name}.lance/data/{d.path}" for part in loaded for d in part.files if d.path not in named))
            raise lost from error

    def _write(self, name: str, schema: pa.Schema, rows: pa.Table | pa.RecordBatchReader, since: int) -> list[str]:
        target = self.ensure(name, schema)
        try:
            fragments = lance.fragment.write_fragments(rows, target, mode="append")
        except LANCE_ERRORS as error:
            raise self.lost("write to", name, since, error) from error
        return [json.dumps({"since": since, "fragment": fragment.to_json()}) for fragment in fragments]

    def lost(self, verb: str, name: str, since: int, error: BaseException) -> TapstateError:
        """Why a write that was begun at version ``since`` failed: a fence between, or the disk."""
        if rival(error) or (missing(error) and (now := self.open(name)) is not None and now.version > since):
            return ConflictError(f"{name} was purged while it was written to", where=self.uri, mend="run the command again")
        return failure(self.uri, verb, name, error)

    def scan(
        self,
        name: str,
        columns: Sequence[str],
        *,
        schema: pa.Schema | None = None,
        filter: Expression | None = None,
        within: Expression | None = None,
        span: tuple[str, int, int] | None = None,
        batch_rows: int = BATCH_ROWS,
        **options: Any,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of the rows that pass ``filter``; nothing if the table is not there. Memory is bounded by a few batches.

        Args:
            schema: says of what type the columns are that a table of an earlier release lacks; they are null.
            within: passed by all of them, and by so few others that only the fragments with such rows are worth a look.
            span: an int64 column, and the least and the greatest value of it that they can have: where rows were appended in its order
                and no index knows them, few fragments hold such. Not looked at beside ``within``.

        Raises:
            HomeError: the files were replaced by maintenance while they were read.
            CorruptError: a file is gone or holds something else.
        """
        dataset = self.open(name)
        first = True
        while dataset is not None:
            try:
                if within is not None:
                    options["fragments"] = fragments(dataset, within)
                elif span is not None:
                    options["fragments"] = self._zones.overlapping(dataset, *span)
                held = there(dataset, columns, schema)
                for batch in dataset.scanner(columns=held, filter=filter, batch_size=batch_rows, **options).to_batches():
                    first = False
                    yield whole(batch, columns, schema)
            except LANCE_ERRORS as error:
                newer = self._newer(name, dataset, error)
                if not first:
                    raise HomeError(
                        f"table {name} was compacted and cleaned while it was read: {short(error)}",
                        where=self.uri,
                        mend="run it again; a larger maintain.grace_minutes in config.toml gives slow readers more time",
                    ) from error
                # Its old files are gone; the newest state holds the same rows.
                dataset = newer
            else:
                return

    def read(self, name: str, schema: pa.Schema, columns: Sequence[str], *, filter: Expression | None = None, **options: Any) -> pa.Table:
        """The rows that pass ``filter`` as one table; an empty one if the table is not there."""
        kept = pa.schema([schema.field(column) for column in columns])
        for last in (False, True):
            try:
                return pa.Table.from_batches(
                    [b.cast(kept) for b in self.scan(name, columns, schema=schema, filter=filter, **options)], schema=kept
                )
            except HomeError as error:
                if last or "while it was read" not in error.what:
                    raise
        raise AssertionError

    def find(
        self,
        name: str,
        schema: pa.Schema,
        columns: Sequence[str],
        among: Mapping[str, npt.NDArray[np.int64]],
        pick: Pick | None = None,
        **options: Any,
    ) -> pa.Table:
        """The rows whose int64 columns are among the given values, all of them; an empty table if the table is not there.

        A few values are asked for by filter, which an index may serve. Many would make it visit every page anyway: one pass over the
        columns alone tells which rows to take, eight bytes a row and column, however wide the rows are.

        Args:
            pick: chooses among them, and their order, before the other columns are read.

        Raises:
            CorruptError: a file is gone or holds something else.
        """
        kept = pa.schema([schema.field(column) for column in columns])
        if max(map(len, among.values())) <= FEW:
            filter = reduce(and_, (pc.field(column).isin(pa.array(values)) for column, values in among.items()))
            found = self.read(name, schema, columns, filter=filter, **options)
            return pick.of(found) if pick else found
        dataset = self.open(name)
        while dataset is not None:
            try:
                rows = places(dataset, among)
                if pick and len(rows):
                    rows = rows[pick.choose(dataset.take(rows, columns=list(pick.columns)))]
                found = dataset.take(rows, columns=there(dataset, columns, schema)) if len(rows) else kept.empty_table()
                return whole(found, columns, schema).cast(kept)
            except LANCE_ERRORS as error:
                # Places are of one version of the table; those of the newest one are looked for anew.
                dataset = self._newer(name, dataset, error)
        return kept.empty_table()

    def _newer(self, name: str, dataset: lance.LanceDataset, error: BaseException) -> lance.LanceDataset:
        """The newest state, if ``error`` came of maintenance having replaced the files of the one that was read."""
        newer = self.open(name)
        if newer is None or newer.version == dataset.version:
            raise failure(self.uri, "read", name, error) from error
        return newer

    def files(self, name: str) -> dict[str, tuple[int, datetime]]:
        """Every file of a table, named by a version of it or not: bytes and time of last change by path below the table."""
        folder = f"lance/{name}.lance"
        return {path.removeprefix(f"{folder}/"): about for path, about in self.objects.files(folder).items()}


def _files(schema: pa.Schema) -> dict[str, str] | None:
    """Lance's own choice of file version but for rows that hold lists of vectors: nothing there is to be compressed, and 2.0 writes them
    four times as fast and reads them twice as fast."""
    return {"new_table_data_storage_version": "2.0"} if any(pa.types.is_list(field.type) for field in schema) else None


def data_files(dataset: lance.LanceDataset) -> set[str]:
    """Names of the data files that a table's fragments are made of."""
    return {data.path for fragment in dataset.get_fragments() for data in fragment.metadata.files}
