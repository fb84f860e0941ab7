"""Lance tables of a home: what ``Rows`` reads, written in commits of all or nothing.

LanceDB is the catalogue and what readers open; pylance writes, since it alone takes streams and staged fragments.
"""

import json
from collections.abc import Callable, Iterator, Sequence

import lance
import pyarrow as pa

from schemas.errors import ConflictError, TapstateError
from store.conflicts import missing, rival
from store.failures import LANCE_ERRORS, damage, failure
from store.objects import Objects
from store.rows import ATTEMPTS, Rows


def _unguarded() -> None:
    """Whoever writes holds no lease."""


class Tables(Rows):
    """The tables below ``<home>/lance``, appended to.

    Args:
        objects: the home's small objects.

    Attributes:
        guard: called before every commit; raises when whoever writes should not go on (``store/lease.py`` sets it).
    """

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        self.guard: Callable[[], None] = _unguarded

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


def _files(schema: pa.Schema) -> dict[str, str] | None:
    """Lance's own choice of file version but for rows that hold lists of vectors: nothing there is to be compressed, and 2.0 writes them
    four times as fast and reads them twice as fast."""
    return {"new_table_data_storage_version": "2.0"} if any(pa.types.is_list(field.type) for field in schema) else None


def data_files(dataset: lance.LanceDataset) -> set[str]:
    """Names of the data files that a table's fragments are made of."""
    return {data.path for fragment in dataset.get_fragments() for data in fragment.metadata.files}
