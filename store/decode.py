"""Decoding any file that a home may hold, as Arrow batches: Lance data and indices, Arrow, Parquet, JSON, gzip, SQLite."""

import gzip
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lance.file import LanceFileReader

from schemas.states import StateSpec
from store.packing import LAYOUT, unpack

#: Rows of one decoded batch.
ROWS = 16_384


def decode(path: Path) -> Iterator[pa.RecordBatch] | None:
    """The file's values; None where only its bytes can be searched: a file of another kind, or one that breaks off."""
    for begins, reader in _READERS:
        if begins(path):
            try:
                # Whether it can be read at all shows with the first batch.
                batches = reader(path)
                first = next(batches, None)
            except FileNotFoundError:
                raise
            except Exception:
                return None
            return _all(first, batches)
    return None


def _all(first: pa.RecordBatch | None, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if first is not None:
        yield first
        yield from rest


def _lance(path: Path) -> Iterator[pa.RecordBatch]:
    yield from LanceFileReader(str(path)).read_all(batch_size=ROWS).to_batches()


def _arrow(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            yield _unpacked(batch) if LAYOUT in (batch.schema.metadata or {}) else batch


def _unpacked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A bundle's records with each vector of a user as a column; whatever its type, its bytes stand as float16."""
    spec = StateSpec.from_json(json.loads(batch.schema.metadata[LAYOUT]))
    columns, states = {"key": batch.column("key")}, unpack(batch, spec).columns
    for column in spec.columns:
        data = np.ascontiguousarray(states[column.name]).tobytes()
        width = len(data) // max(1, 2 * batch.num_rows)
        if column.per == "user" and column.shape and width * 2 * batch.num_rows == len(data) and width:
            columns[column.name] = pa.FixedSizeListArray.from_arrays(pa.array(np.frombuffer(data, np.float16)), width)
    return pa.RecordBatch.from_pydict(columns)


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    yield from pq.ParquetFile(path).iter_batches(ROWS)


def _gzip(path: Path) -> Iterator[pa.RecordBatch]:
    with gzip.open(path, "rt", errors="replace") as stream:
        while lines := stream.readlines(1 << 22):
            yield _column("line", lines)


def _json(path: Path) -> Iterator[pa.RecordBatch]:
    strings: dict[str, list[str]] = {}
    numbers: list[int] = []
    todo: list[tuple[str, Any]] = [("value", json.loads(path.read_bytes()))]
    while todo:
        name, value = todo.pop()
        if isinstance(value, dict):
            todo += value.items()
            strings.setdefault("", []).extend(value)
        elif isinstance(value, list):
            todo += ((name, item) for item in value)
        elif isinstance(value, str):
            strings.setdefault(name, []).append(value)
        elif isinstance(value, int) and abs(value) < 2**63:
            numbers.append(int(value))
    for name, values in strings.items():
        yield _column(name, values)
    yield pa.RecordBatch.from_arrays([pa.array(numbers, pa.int64())], names=["number"])


def _sqlite(path: Path) -> Iterator[pa.RecordBatch]:
    base = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)
    base.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        for (table,) in base.execute("select name from sqlite_master where type = 'table'").fetchall():
            rows = base.execute(f'select * from "{table}"')
            names = [column[0] for column in rows.description]
            while part := rows.fetchmany(ROWS):
                for name, values in zip(names, zip(*part, strict=True), strict=True):
                    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
                    yield _column(f"{table}.{name}", [value for value in texts if isinstance(value, str)])
    finally:
        base.close()


def _column(name: str, values: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.large_string())], names=[name])


def _magic(start: bytes) -> Callable[[Path], bool]:
    def begins(path: Path) -> bool:
        with path.open("rb") as stream:
            return stream.read(len(start)) == start

    return begins


_READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Iterator[pa.RecordBatch]]], ...] = (
    (lambda path: path.suffix == ".lance", _lance),
    (_magic(b"ARROW1"), _arrow),
    (_magic(b"PAR1"), _parquet),
    (_magic(b"\x1f\x8b"), _gzip),
    (_magic(b"SQLite format 3\x00"), _sqlite),
    (lambda path: path.suffix == ".json", _json),
)
