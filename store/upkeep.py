"""Upkeep of Lance tables: rows deleted by what they say, small files merged, columns indexed, files nobody reads removed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import lance
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from pyarrow.compute import Expression

from schemas.errors import ConflictError
from store.conflicts import replaced, rival
from store.failures import LANCE_ERRORS, failure
from store.rows import ATTEMPTS
from store.tables import Tables

T = TypeVar("T")

#: Rows of one deletion by row id, and keys that an index is compared with a scan on.
CHUNK, PROBES = 10_000, 64


def delete(tables: Tables, name: str, filter: Expression) -> int:
    """Delete the rows that pass ``filter``; how many. They stay in the files until ``compact`` and ``clean``."""
    dataset = tables.open(name)
    if dataset is None:
        return 0
    with _commits(tables, name):
        return int(dataset.delete(filter)["num_deleted_rows"])


def delete_rows(tables: Tables, name: str, dataset: lance.LanceDataset, rows: npt.NDArray[np.uint64]) -> int:
    """Delete rows of ``dataset`` by the ids they have in it.

    Raises:
        ConflictError: the rows were moved meanwhile, so the ids mean others.
    """
    deleted = 0
    for start in range(0, len(rows), CHUNK):
        # Numbers of Lance's own; a typed filter cannot name that column. Never tried again, which would read the ids anew.
        filter = f"_rowid IN ({','.join(map(str, rows[start : start + CHUNK].tolist()))})"
        with _commits(tables, name):
            deleted += int(dataset.delete(filter, conflict_retries=0)["num_deleted_rows"])
    return deleted


def compact(tables: Tables, name: str) -> None:
    """Merge small files and leave deleted rows out.

    Raises:
        ConflictError: another one changed the same files.
    """
    dataset = tables.open(name)
    if dataset is not None:
        with _commits(tables, name):
            dataset.optimize.compact_files(materialize_deletions_threshold=0.0)
        _verify(tables, name)


def unindexed(dataset: lance.LanceDataset, column: str) -> int:
    """Rows that an equality on ``column`` has to scan."""
    if _index(dataset, column) is None:
        return int(dataset.count_rows())
    return int(dataset.stats.index_stats(f"{column}_idx")["num_unindexed_rows"])


def index(tables: Tables, name: str, columns: Sequence[str]) -> None:
    """Index ``columns``, or bring their indices up to date, and compare what they find with scans."""
    dataset = tables.open(name)
    if dataset is None:
        return
    for column in columns:
        with _commits(tables, name):
            if _index(dataset, column) is None:
                dataset.create_scalar_index(column, "BTREE")
            else:
                dataset.optimize.optimize_indices(index_names=[f"{column}_idx"])
    _verify(tables, name)


def indexed(dataset: lance.LanceDataset) -> set[str]:
    """Columns that have an index."""
    return {column for column in dataset.schema.names if _index(dataset, column)}


def unindex(tables: Tables, name: str, columns: Sequence[str]) -> None:
    """Drop the indices of ``columns``."""
    if dataset := tables.open(name):
        for column in columns:
            with _commits(tables, name):
                dataset.drop_index(f"{column}_idx")


def _index(dataset: lance.LanceDataset, column: str) -> str | None:
    return next((f"{column}_idx" for found in dataset.describe_indices() if found.name == f"{column}_idx"), None)


def _verify(tables: Tables, name: str) -> None:
    """Drop an index that does not find what a scan finds: Lance has had such bugs after compaction."""
    dataset = tables.open(name)
    if dataset is None or not dataset.count_rows():
        return
    places = np.unique(np.linspace(0, dataset.count_rows() - 1, PROBES).astype(np.int64))
    for column in dataset.schema.names:
        if _index(dataset, column) is None:
            continue
        values = pc.unique(dataset.take(places, columns=[column]).column(column))
        filter = pc.field(column).isin(values)
        counts = [dataset.scanner(columns=[column], filter=filter, use_scalar_index=use).count_rows() for use in (True, False)]
        if counts[0] != counts[1]:
            with _commits(tables, name):
                dataset.drop_index(f"{column}_idx")


def old_bytes(tables: Tables, name: str, grace: timedelta) -> int:
    """Bytes that only versions older than ``grace`` name."""

    def look(dataset: lance.LanceDataset) -> int:
        return int(dataset.explain_cleanup_old_versions(older_than=grace, error_if_tagged_old_versions=False).stats.bytes_removed)

    return _over_versions(tables, name, look) or 0


def clean(tables: Tables, name: str, grace: timedelta) -> None:
    """Remove versions older than ``grace`` and the files that only they name."""
    dataset = tables.open(name)
    if dataset is not None:
        with _commits(tables, name):
            dataset.cleanup_old_versions(older_than=grace, error_if_tagged_old_versions=False)


def tracked(tables: Tables, name: str) -> set[str]:
    """Files that some version of the table names, by path below it."""
    return _over_versions(tables, name, lambda dataset: set(dataset.tracked_files().read_all().column("path").to_pylist())) or set()


def _over_versions(tables: Tables, name: str, look: Callable[[lance.LanceDataset], T]) -> T | None:
    """What ``look`` finds over all versions of a table, None without one; again if another one removed some of them meanwhile."""
    for left in reversed(range(ATTEMPTS)):
        dataset = tables.open(name)
        if dataset is None:
            return None
        try:
            return look(dataset)
        except LANCE_ERRORS as error:
            if not left or not replaced(error):
                raise failure(tables.uri, "list versions of", name, error) from error
    raise AssertionError


@contextmanager
def _commits(tables: Tables, name: str) -> Iterator[None]:
    tables.guard()
    now = tables.open(name)
    try:
        yield
    except LANCE_ERRORS as error:
        if rival(error) or replaced(error):
            raise ConflictError(
                f"table {name} was changed by another writer at the same time", where=tables.uri, mend="tapstate maintain --yes, again"
            ) from error
        raise tables.lost("change", name, now.version if now is not None else 0, error) from error
