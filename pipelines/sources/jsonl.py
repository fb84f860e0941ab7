"""JSON lines: blocks of whole lines, parsed at once; only a block with a bad line is looked at line by line."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipelines.sources import RAW_KEPT, BadRow, RawBatch, unreadable
from pipelines.sources.files import DamagedError, File
from schemas.errors import InputError
from schemas.events import DELETE, REQUIRED

#: A longer line is not held in memory: it becomes an unreadable row.
MAX_LINE = 128 << 20
_BLANKS = b" \t\r\n"
#: Until keys become fields, the line number needs a name that is no key.
_LINE = "\0line"
#: Below this many lines a failing block is no longer halved.
_SMALL = 256
#: Half of a surrogate pair: polars turns it into a NUL without a word, so such lines are judged by ``json``.
_LONE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


def read_jsonl(file: File, columns: Mapping[str, str], needed: Sequence[str] = ()) -> Iterator[RawBatch]:
    """Rows of a file with one JSON object a line: the fields as String, and ``line``.

    Numbers keep their digits (integers of any size up to 38 digits; ``4.0`` becomes ``4``), nested values become JSON
    text, a key that is missing becomes null, of a key that is there twice the first counts. Blank lines are no rows.

    Args:
        columns: field → key.
        needed: fields whose key some row of the first block must have.

    Raises:
        InputError: no row of the first block has a needed key, or the file is one JSON array.
    """
    schema = {column: pl.String() for column in columns.values()}
    line, damage = 1, None
    try:
        for data, fault in _blocks(file):
            if fault:
                yield RawBatch.broken(file.name, None, [(line, data, fault)])
                line += 1
                continue
            if line == 1 and data.lstrip(_BLANKS)[:1] == b"[":
                raise InputError("it is a JSON array, not one object a line", where=file.name, mend="jq -c '.[]' FILE")
            rows, bad = _parse(data, line, schema)
            fields = rows.select(*(pl.col(column).alias(field) for field, column in columns.items()), pl.col(_LINE).alias("line"))
            if len(rows):
                deletes = "op" in columns and fields["op"].eq_missing(DELETE).all()
                empty = [f for f in needed if fields[f].null_count() == len(rows) and not (deletes and f in REQUIRED[1:])]
                _need(file, data, [columns[f] for f in empty])
                needed = ()
            yield RawBatch(file.name, fields, unreadable(bad))
            line += data.count(b"\n")
    except DamagedError as error:
        damage = str(error)
    if damage:
        yield RawBatch.broken(file.name, damage)


def _blocks(file: File) -> Iterator[tuple[bytes, str]]:
    """Bytes cut after a line end; with a fault, the bytes of one line that cannot be read."""
    carry: list[bytes] = []
    size, first = 0, True
    try:
        for chunk in file.chunks():
            chunk = chunk.removeprefix(b"\xef\xbb\xbf") if first else chunk
            first = first and not chunk
            if size > MAX_LINE:  # inside a line too long: on to its end
                cut = chunk.find(b"\n") + 1
                if not cut:
                    continue
                yield b"".join(carry), f"the line is longer than {MAX_LINE >> 20} MiB"
                carry, size, chunk = [], 0, chunk[cut:]
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield b"".join([*carry, chunk[:cut]]), ""
                carry, size = [], 0
            carry.append(chunk[cut:])
            size += len(chunk) - cut
            if size > MAX_LINE:
                carry = [b"".join(carry)[:RAW_KEPT]]
    except DamagedError as error:
        if size:
            yield b"".join(carry), f"the file ends in the middle of a row: {error}"
        raise
    if size > MAX_LINE:
        yield b"".join(carry), f"the line is longer than {MAX_LINE >> 20} MiB"
    elif size:
        yield b"".join([*carry, b"\n"]), ""


def _parse(data: bytes, first: int, schema: dict[str, pl.String]) -> tuple[pl.DataFrame, list[BadRow]]:
    """Rows of a block that begins at line ``first``, and its bad lines."""
    count = data.count(b"\n")
    rows = _read(data, schema)
    if rows is not None and len(rows) == count:
        return _numbered(rows, np.arange(first, first + count)), []
    lines = data.split(b"\n")[:count]
    frames: list[pl.DataFrame] = [pl.DataFrame(schema={**schema, _LINE: pl.Int64()})]
    bad: list[BadRow] = []
    full = [(number, line) for number, line in enumerate(lines, first) if line.strip(_BLANKS)]
    _salvage(full, schema, frames, bad, screened=False)
    return pl.concat(frames), bad


def _salvage(
    lines: list[tuple[int, bytes]], schema: dict[str, pl.String], frames: list[pl.DataFrame], bad: list[BadRow],
    *, screened: bool,
) -> None:  # fmt: skip
    """Good lines to ``frames``, bad ones to ``bad``: halve what fails, so that good lines still go together."""
    if not lines:
        return
    rows = _read(b"\n".join(line for _, line in lines), schema)
    if rows is not None and len(rows) == len(lines):
        frames.append(_numbered(rows, np.array([number for number, _ in lines])))
    elif len(lines) > _SMALL or (screened and len(lines) > 1):
        half = len(lines) // 2
        _salvage(lines[:half], schema, frames, bad, screened=screened)
        _salvage(lines[half:], schema, frames, bad, screened=screened)
    elif screened:
        bad.append((*lines[0], "not valid JSON: a number out of range, or nested too deeply"))
    else:
        faults = [(number, line, _fault(line)) for number, line in lines]
        bad += [fault for fault in faults if fault[2]]
        good = [(number, line) for number, line, fault in faults if not fault]
        _salvage(good, schema, frames, bad, screened=True)


def _read(data: bytes, schema: dict[str, pl.String]) -> pl.DataFrame | None:
    """The block at once; None when a line of it is bad (or may be)."""
    lone = _LONE.search(data)
    if lone and any(_fault(line) for line in data.split(b"\n") if _LONE.search(line)):
        return None
    try:
        return pl.read_ndjson(data, schema=schema)
    except (pl.exceptions.PolarsError, ValueError):
        return None


def _fault(line: bytes) -> str:
    """Why a line is not one JSON object; empty when it is."""
    try:
        value = json.loads(line.decode(), parse_constant=_refuse)
        if not isinstance(value, dict):
            return "not valid JSON: a row must be an object"
        if _LONE.search(line):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return "not valid UTF-8"
    except UnicodeEncodeError:
        return "not valid UTF-8: half of a surrogate pair"
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        return f"not valid JSON: {error}"
    return ""


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _numbered(rows: pl.DataFrame, numbers: "np.ndarray[Any, Any]") -> pl.DataFrame:
    return rows.with_columns(pl.Series(_LINE, numbers, dtype=pl.Int64()))


def _need(file: File, data: bytes, empty: Sequence[str]) -> None:
    """InputError when a column that is null in a whole block is not even a key of it."""
    for column in empty:
        names = {json.dumps(column).encode(), json.dumps(column, ensure_ascii=False).encode()}
        if not any(name in data for name in names):
            seen: dict[str, None] = {}
            for line in data.split(b"\n", 100)[:100]:
                if line.strip(_BLANKS) and not _fault(line):
                    seen |= dict.fromkeys(json.loads(line))
            raise InputError(
                f"no row has the key {column!r}; keys seen: {', '.join(sorted(seen)) or 'none'}",
                where=file.name, mend="name it with --map FIELD=KEY",
            )  # fmt: skip
