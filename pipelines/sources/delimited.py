"""CSV and TSV: records found by their bytes, all at once, so that each bad one is known by its line.

Quoting as in RFC 4180 (and Python's ``csv``): a quote opens a field only at its start. Blocks whose quotes are well
placed go to Polars; a block with a stray quote goes through ``csv``, record by record.
"""

import csv
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipelines.sources import RAW_KEPT, BadRow, RawBatch, unreadable
from pipelines.sources.files import DamagedError, File
from schemas.errors import InputError

#: A record longer than this is a quote that was never closed.
MAX_RECORD = 64 << 20
_QUOTE, _NEWLINE, _RETURN = b'"'[0], b"\n"[0], b"\r"[0]
_UNCLOSED = "a quote opens in this row and is never closed"

Array = np.ndarray[Any, np.dtype[Any]]


def header(file: File) -> list[str] | None:
    """Column names, or None for an empty file. Raises InputError when there is no readable first row."""
    try:
        first = next(_records(file), None)
    except DamagedError as error:
        raise InputError(f"its first row cannot be read: {error}", where=file.name) from error
    if first is None:
        return None
    data, cut, fault = first
    if cut is None:
        raise InputError(f"its first row cannot be read: {fault}", where=file.name)
    return _names(file, data[: cut.ends[0]])


def read_delimited(file: File, columns: Mapping[str, str]) -> Iterator[RawBatch]:
    """Rows of a file with a header: the fields of ``columns`` (field → column) as String, null if empty, and ``line``.

    ``line`` is where the row begins in the file, the header being line 1. Blank lines are no rows.
    """
    line, names, damage = 1, None, None
    try:
        for data, cut, fault in _records(file):
            if cut is None:
                yield RawBatch.broken(file.name, None, [(line, data, fault)])
            elif names is None:
                names = _names(file, data[: cut.ends[0]])
                yield _parse(file, data, cut, names, columns, line, skip=1)
            else:
                yield _parse(file, data, cut, names, columns, line)
            line += data.count(b"\n")
    except DamagedError as error:
        damage = str(error)
    if damage:
        yield RawBatch.broken(file.name, damage)


class _Cut:
    """Where the whole records of some bytes end, and how many fields each has."""

    def __init__(self, data: bytes, separator: int) -> None:
        a = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(a == _QUOTE)
        self.well_formed = _well_placed(a, quotes, separator)
        kept = quotes if self.well_formed else _effective(data, quotes, separator)
        newlines, separators = np.flatnonzero(a == _NEWLINE), np.flatnonzero(a == separator)
        # Outside quotes: an even number of quotes before.
        self.ends: Array = newlines[np.searchsorted(kept, newlines) % 2 == 0] + 1
        self.starts: Array = np.concatenate([np.zeros(1, np.int64), self.ends])[: len(self.ends)]
        separators = separators[np.searchsorted(kept, separators) % 2 == 0]
        self.fields: Array = np.diff(np.searchsorted(separators, self.ends), prepend=0) + 1
        self.before: Array = np.searchsorted(newlines, self.starts)  # line ends before each record
        sizes = self.ends - self.starts
        self.blank: Array = (sizes == 1) | ((sizes == 2) & (a[self.starts] == _RETURN))


def _well_placed(a: Array, quotes: Array, separator: int) -> bool:
    """Every odd quote opens a field or follows a quote, every even one closes a field or precedes a quote."""
    opening, closing = quotes[0::2], quotes[1::2]
    before = a[opening[opening > 0] - 1]
    after = a[closing[closing < len(a) - 1] + 1]
    return bool(np.isin(before, [separator, _NEWLINE, _QUOTE]).all() and np.isin(after, [separator, _NEWLINE, _RETURN, _QUOTE]).all())


def _effective(data: bytes, quotes: Array, separator: int) -> Array:
    """The quotes that open or close a field, as ``csv`` sees them; the others are text."""
    kept: list[int] = []
    inside, escaped = False, -1
    for at in quotes.tolist():
        if at == escaped:
            continue
        if inside and data[at + 1 : at + 2] == b'"':
            escaped = at + 1
        elif inside or at == 0 or data[at - 1] in (separator, _NEWLINE):
            inside = not inside
            kept.append(at)
    return np.array(kept, dtype=np.int64)


def _records(file: File) -> Iterator[tuple[bytes, _Cut | None, str]]:
    """Bytes of whole records and their cut; without a cut, the bytes of a row that cannot be read and why."""
    separator = _separator(file)
    data, first = b"", True
    try:
        for chunk in file.chunks():
            chunk = chunk.removeprefix(b"\xef\xbb\xbf") if first else chunk
            first = first and not chunk
            data = yield from _whole(data + chunk, separator, MAX_RECORD)
    except DamagedError as error:
        if data:
            yield data + b"\n", None, f"the file ends in the middle of a row: {error}"
        raise
    if data:
        yield from _whole(data if data.endswith(b"\n") else data + b"\n", separator, 0)


def _whole(data: bytes, separator: int, limit: int) -> Generator[tuple[bytes, _Cut | None, str], None, bytes]:
    """Yields the whole records, returns the rest; a rest longer than the limit hangs on a quote never closed: its first line goes."""
    while True:
        cut = _Cut(data, separator)
        if len(cut.ends):
            yield data[: cut.ends[-1]], cut, ""
            data = data[cut.ends[-1] :]
        if len(data) <= limit:
            return data
        end = data.find(b"\n") + 1 or len(data)
        yield data[:end], None, _UNCLOSED
        data = data[end:]


def _parse(file: File, data: bytes, cut: _Cut, names: list[str], columns: Mapping[str, str], line: int, skip: int = 0) -> RawBatch:
    bad: list[BadRow] = []
    good = ~cut.blank
    good[:skip] = False

    def refuse(record: int, reason: str) -> None:
        good[record] = False
        raw = data[cut.starts[record] : min(cut.ends[record], cut.starts[record] + RAW_KEPT)]
        bad.append((line + int(cut.before[record]), raw.rstrip(b"\r\n"), reason))

    for record in np.flatnonzero(good & (cut.fields != len(names))).tolist():
        refuse(record, f"{cut.fields[record]} columns where the header has {len(names)}")
    for record in _not_utf8(data, cut.ends):
        if good[record]:
            refuse(record, "not valid UTF-8")
    wanted = [names.index(column) for column in columns.values()]
    rows = _fast(data, cut, good, wanted, len(names), _separator(file)) if cut.well_formed else None
    if rows is None:
        rows = _careful(data, cut, good, wanted, len(names), _separator(file), refuse)
    rows.columns = list(columns)
    numbers = pl.Series("line", line + cut.before[good], dtype=pl.Int64())
    return RawBatch(file.name, rows.with_columns(numbers), unreadable(sorted(bad)))


def _fast(data: bytes, cut: _Cut, good: Array, wanted: Sequence[int], width: int, separator: int) -> pl.DataFrame | None:
    """The good records through Polars; None when it does not see the records that we see."""
    if not good.all():
        data = np.frombuffer(data, np.uint8)[: cut.ends[-1]][np.repeat(good, cut.ends - cut.starts)].tobytes()
    names = [f"c{i}" for i in range(width)]
    try:
        rows = pl.read_csv(
            data, has_header=False, separator=chr(separator), schema=dict.fromkeys(names, pl.String()),
            columns=sorted(set(wanted)),
        )  # fmt: skip
    except (pl.exceptions.PolarsError, ValueError):
        return None
    if len(rows) != good.sum():
        return None
    cells = (pl.col(f"c{i}") for i in wanted)
    return rows.select(pl.when(cell != "").then(cell).alias(f"w{n}") for n, cell in enumerate(cells))


def _careful(
    data: bytes, cut: _Cut, good: Array, wanted: Sequence[int], width: int, separator: int,
    refuse: Callable[[int, str], None],
) -> pl.DataFrame:  # fmt: skip
    """The good records through ``csv``, one by one; what it refuses is refused."""
    csv.field_size_limit(MAX_RECORD * 2)
    rows: list[list[str | None]] = []
    for record in np.flatnonzero(good).tolist():
        text = data[cut.starts[record] : cut.ends[record]].decode().removesuffix("\n").removesuffix("\r")
        try:
            fields = next(csv.reader([text], delimiter=chr(separator)))
        except csv.Error as error:
            refuse(record, f"not valid CSV: {error}")
            continue
        if len(fields) == width:
            rows.append([fields[i] or None for i in wanted])
        else:
            refuse(record, f"{len(fields)} columns where the header has {width}")
    return pl.DataFrame(rows, schema={f"w{n}": pl.String() for n in range(len(wanted))}, orient="row")


def _not_utf8(data: bytes, ends: Array) -> Iterator[int]:
    """Records that are not UTF-8. Each try begins behind the last bad record, so all are found in one pass."""
    at = 0
    view = memoryview(data)
    while at < len(data):
        try:
            str(view[at:], "utf-8")
            return
        except UnicodeDecodeError as error:
            record = int(np.searchsorted(ends, at + error.start, side="right"))
            yield record
            at = int(ends[record])


def _separator(file: File) -> int:
    return b"\t"[0] if file.format == "tsv" else b","[0]


def _names(file: File, record: bytes) -> list[str]:
    try:
        row = next(csv.reader([record.decode().strip("\r\n")], delimiter=chr(_separator(file))))
    except (UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise InputError(f"its first row is no header: {error or 'a blank line'}", where=file.name) from error
    names = [name.strip() for name in row]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"columns that are there twice: {', '.join(twice)}", where=file.name, mend="rename one")
    return names
