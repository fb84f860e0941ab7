"""Parquet: batches of bounded size out of any row group, with the types the file has."""

from collections.abc import Iterator, Mapping

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.sources import BadRow, RawBatch, unreadable
from pipelines.sources.files import File
from schemas.errors import InputError

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 1 << 16


def columns(file: File) -> list[str]:
    """Column names. Raises InputError when the file is not Parquet."""
    with _opened(file) as table:
        return list(table.schema_arrow.names)


def read_parquet(file: File, columns: Mapping[str, str]) -> Iterator[RawBatch]:
    """Rows with the fields of ``columns`` (field → column): numbers and times as they are stored, all else as String.

    ``line`` is the row number, from 1.
    """
    with _opened(file) as table:
        line = 1
        batches = table.iter_batches(_rows_a_batch(table), columns=list(set(columns.values())), use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                yield RawBatch.broken(file.name, f"cannot be read further: {_line(error)}")
                return
            if batch is None:
                return
            yield _raw(file, pa.table({field: batch.column(column) for field, column in columns.items()}), line)
            line += batch.num_rows


def _opened(file: File) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.open(), buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not a Parquet file: {_line(error)}", where=file.name) from error


def _rows_a_batch(table: pq.ParquetFile) -> int:
    """Rows that make about 16 MiB, by the largest row group, so that long texts do not fill the memory."""
    groups = [table.metadata.row_group(i) for i in range(table.metadata.num_row_groups)]
    row = max((g.total_byte_size / max(g.num_rows, 1) for g in groups), default=1.0)
    return max(16, min(_BATCH_ROWS, int(_BATCH_BYTES / max(row, 1.0))))


def _raw(file: File, table: pa.Table, line: int) -> RawBatch:
    bad = _not_utf8(table)
    table = pa.table({name: _readable(table[name], bad) for name in table.column_names})
    rows = pl.DataFrame(table).with_columns(pl.int_range(line, line + pl.len(), dtype=pl.Int64()).alias("line"))
    nested = [name for name, dtype in rows.schema.items() if dtype.is_nested()]
    rows = rows.with_columns(pl.when(pl.col(name).is_not_null()).then(pl.struct(name).struct.json_encode()).alias(name) for name in nested)
    reasons: list[BadRow] = [(line + at, raw, "not valid UTF-8") for at, raw in sorted(bad.items())]
    rows = rows.filter(~pl.col("line").is_in([number for number, _, _ in reasons]))
    return RawBatch(file.name, rows, unreadable(reasons))


def _readable(column: pa.ChunkedArray, bad: Mapping[int, bytes]) -> pa.ChunkedArray:
    """The column with bytes and dictionaries as strings; the bad rows, which are dropped later, as null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not _textual(column.type):
        return column
    if bad:
        gone = pa.array([at in bad for at in range(len(column))])
        column = pc.if_else(gone, pa.scalar(None, pa.large_binary()), column.cast(pa.large_binary()))
    return column.cast(pa.large_string())


def _not_utf8(table: pa.Table) -> dict[int, bytes]:
    """Rows of which a text is not UTF-8: Parquet stores it, Arrow and Polars would trust it."""
    bad: dict[int, bytes] = {}
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not _textual(column.type):
            continue
        try:
            column.cast(pa.large_binary()).cast(pa.large_string())
        except pa.ArrowInvalid:
            for at, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
                try:
                    str(value or b"", "utf-8")
                except UnicodeDecodeError:
                    bad.setdefault(at, value)
    return bad


def _textual(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
