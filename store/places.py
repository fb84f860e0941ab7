"""Where rows of a table lie, told from its narrowest columns before wide ones are read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import lance
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pyarrow.compute import Expression

from store.frames import to_polars

#: Rows of one batch of a pass over keys.
PASS_ROWS = 262_144


@dataclass(frozen=True)
class Pick:
    """A choice of rows by a few of their columns.

    Attributes:
        columns: those that it looks at.
        choose: which rows, and in which order, of a table that has them.
    """

    columns: Sequence[str]
    choose: Callable[[pa.Table], npt.NDArray[np.int64]]

    def of(self, table: pa.Table) -> pa.Table:
        """The chosen rows; the table itself where that is all of them as they are, since wide rows are slow to copy."""
        rows = self.choose(table)
        return table if len(rows) == table.num_rows and (np.diff(rows) == 1).all() else table.take(pa.array(rows))


def fragments(dataset: lance.LanceDataset, within: Expression) -> list[lance.LanceFragment]:
    """The fragments that hold rows which pass ``within``."""
    found = dataset.scanner(columns=[], filter=within, with_row_address=True, batch_size=PASS_ROWS).to_batches()
    return holding(dataset, (batch.column("_rowaddr").to_numpy() for batch in found))


def holding(dataset: lance.LanceDataset, addresses: Iterable[npt.NDArray[np.uint64]]) -> list[lance.LanceFragment]:
    """The fragments of rows by their addresses, whose upper half is the fragment's number."""
    held = {number for part in addresses for number in np.unique(part >> np.uint64(32)).tolist()}
    return [fragment for fragment in dataset.get_fragments() if fragment.fragment_id in held]


def places(dataset: lance.LanceDataset, among: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Which rows of a dataset have all their values among the given ones."""
    sets = {column: pl.Series(values, dtype=pl.Int64).implode() for column, values in among.items()}
    found, at = [np.zeros(0, np.int64)], 0
    for batches in _grouped(dataset.scanner(columns=list(among), batch_size=PASS_ROWS).to_batches(), PASS_ROWS):
        frame = to_polars(pa.Table.from_batches(batches))
        hits = frame.select(pl.all_horizontal(pl.col(column).is_in(values) for column, values in sets.items())).to_series()
        found.append(hits.arg_true().to_numpy().astype(np.int64) + at)
        at += len(frame)
    return np.concatenate(found)


def _grouped(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Batches of at least ``rows`` rows together, the last ones perhaps fewer: a fragment gives a batch, however small it is."""
    group, held = list[pa.RecordBatch](), 0
    for batch in batches:
        group.append(batch)
        held += batch.num_rows
        if held >= rows:
            yield group
            group, held = [], 0
    if group:
        yield group
