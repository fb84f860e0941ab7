"""Rows of a home's Lance tables, read as Arrow streams.

Filters are typed expressions: ids and keys are data there, never spliced into a filter string.
"""

from collections.abc import Iterator, Mapping, Sequence
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

from schemas.errors import HomeError
from store.columns import there, whole
from store.conflicts import replaced
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


class Rows:
    """What the LanceDB database below ``<home>/lance`` holds; any LanceDB client can open it.

    Args:
        objects: the home's small objects.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.uri = f"{objects.uri}/lance"
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
