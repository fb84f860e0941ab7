"""Purging rows from a table: physically, whatever other writers do meanwhile.

A *fence* is a commit that changes nothing, of the kind (a merge of columns) that Lance lets no append, update or compaction pass which
was begun before it. So what a writer read before a purge never becomes part of the table after it, and files that lay in ``data/`` before
a fence and are named by no fragment after it belong to a refused or a dead writer: they can go at once. (A column that is added, as
``Tables.ensure`` does to tables of earlier releases, is a merge too, which appends pass; states never get one.)
"""

import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.compute import Expression

from store.conflicts import missing, rival
from store.objects import Objects
from store.places import holding
from store.rows import BATCH_ROWS
from store.tables import Tables, data_files

Rows = npt.NDArray[np.uint64]
#: How often another writer may come between before a purge gives up.
PATIENCE = 50


def fence(tables: Tables, name: str) -> lance.LanceDataset | None:
    """Refuse every write to a table that was begun before now, and remove the files such writers left; None if there is no table.

    Raises:
        OSError: the place cannot be written.
    """
    if tables.open(name) is None:
        return None
    files = Objects(f"{tables.uri}/{name}.lance")
    for last in (*[False] * PATIENCE, True):
        dataset = tables.open(name)
        assert dataset is not None
        there = files.names("data")
        operation = lance.LanceOperation.Merge([f.metadata for f in dataset.get_fragments()], dataset.lance_schema)
        try:
            fenced = lance.LanceDataset.commit(dataset.uri, operation, read_version=dataset.version, max_retries=0)
        except OSError as error:
            if _moved(error) and not last:
                continue
            raise
        named = data_files(fenced)
        files.remove(*(f"data/{path}" for path in there if path not in named))
        return fenced
    raise AssertionError


def fenced(tables: Tables, name: str, since: int) -> bool:
    """Whether a table was fenced since a writer's ``mark``."""
    dataset = tables.open(name)
    if dataset is None or dataset.version == since:
        return False
    known = [version["version"] for version in dataset.versions()]
    done = (dataset.read_transaction(number) for number in known if number > since)
    # Versions that are gone were dropped by a purge.
    return since not in known or any(isinstance(t.operation, lance.LanceOperation.Merge) for t in done if t)


def purge(tables: Tables, name: str, filter: Expression, instead: pa.Table | None = None) -> int:
    """Remove the rows that pass ``filter`` from data files, older Lance versions and indices; and what writers begun before may
    have left of them. Returns how many rows there were.

    Only fragments that hold such a row are rewritten, as streams; other writers go on or are told to begin again. Killed and run again,
    it completes.

    Args:
        filter: on columns that are never null; values are data in it.
        instead: rows to put in their place, in the same commit; they may pass the filter.

    Raises:
        OSError: the place cannot be written.
    """
    removed, ours, patience = 0, set[str](), PATIENCE
    while True:
        # Fenced again after each rewriting: what was begun between is of rows that were still there.
        dataset = fence(tables, name)
        if dataset is None:
            return removed
        try:
            scanned = dataset.scanner(columns=[], filter=filter, with_row_address=True).to_batches()
            rows = np.sort(np.concatenate([np.empty(0, np.uint64), *(b.column("_rowaddr").to_numpy() for b in scanned)]))
            if {data.path for f in holding(dataset, [rows]) for data in f.metadata.files} <= ours and (instead is None or ours):
                break
            ours = _rewrite(dataset, rows, instead)
        except OSError as error:
            if not _moved(error) or not patience:
                raise
            patience -= 1
            continue
        removed = max(removed, len(rows))
        if not ours:
            instead = None
    _forget(tables, name)
    return removed


def _rewrite(dataset: lance.LanceDataset, rows: Rows, instead: pa.Table | None) -> set[str]:
    """Replace the fragments that hold ``rows`` (sorted) by ones without them; names of the files that hold ``instead``."""
    fragments = holding(dataset, [rows])

    def kept() -> Iterator[pa.RecordBatch]:
        if fragments:
            for batch in dataset.scanner(fragments=fragments, with_row_address=True, batch_size=BATCH_ROWS).to_batches():
                stay = ~np.isin(batch.column("_rowaddr").to_numpy(), rows)
                if stay.any():
                    yield batch.drop_columns(["_rowaddr"]).filter(pa.array(stay)).cast(dataset.schema)

    new = _written(dataset, kept())
    put = _written(dataset, iter(instead.cast(dataset.schema).to_batches())) if instead is not None and instead.num_rows else []
    operation = lance.LanceOperation.Update(removed_fragment_ids=sorted(f.fragment_id for f in fragments), new_fragments=[*new, *put])
    lance.LanceDataset.commit(dataset.uri, operation, read_version=dataset.version)
    return {data.path for fragment in put for data in fragment.files}


def _written(dataset: lance.LanceDataset, batches: Iterator[pa.RecordBatch]) -> list[Any]:
    first = next(batches, None)
    if first is None:
        return []
    reader = pa.RecordBatchReader.from_batches(dataset.schema, itertools.chain([first], batches))
    return list(lance.fragment.write_fragments(reader, dataset, mode="append"))


def _forget(tables: Tables, name: str) -> None:
    """Build indices anew and drop every older Lance version: both may still hold removed rows."""
    for last in (*[False] * PATIENCE, True):
        dataset = tables.open(name)
        assert dataset is not None
        try:
            for index in dataset.list_indices():
                kind: Any = index["type"].upper()
                dataset.create_scalar_index(index["fields"][0], kind, name=index["name"], replace=True)
            dataset = tables.open(name)
            assert dataset is not None
            dataset.cleanup_old_versions(older_than=timedelta(0))
            return
        except OSError as error:
            if last or not _moved(error):
                raise


def _moved(error: OSError) -> bool:
    """Whether another writer's commit, or another purge's cleaning, came between: look again."""
    return rival(error) or missing(error)
