"""Sources: where events come from. A source yields raw rows; ``pipelines.validation`` judges them.

A source loses nothing: a row it cannot parse is handed on with its line and the reason, and a file that cannot be
read to its end says so in ``damaged``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

#: Columns of ``RawBatch.unreadable``.
UNREADABLE = {"line": pl.Int64(), "raw": pl.String(), "reason": pl.String()}

#: Bytes of an unreadable row that are kept.
RAW_KEPT = 1 << 16

#: One row that could not be parsed: its line, its bytes and why.
BadRow = tuple[int, bytes, str]


def unreadable(bad: Sequence[BadRow] = ()) -> pl.DataFrame:
    """The bad rows as a frame of ``UNREADABLE``; bytes that are not UTF-8 show as U+FFFD."""
    rows = [(line, raw[:RAW_KEPT].decode("utf-8", "replace"), reason) for line, raw, reason in bad]
    return pl.DataFrame(rows, schema=UNREADABLE, orient="row")


@dataclass(frozen=True)
class RawBatch:
    """Some consecutive rows of one source, as they were read.

    Attributes:
        source: the file or repository the rows come from.
        rows: any of ``schemas.events.FIELDS`` (String, or the native type where the format has types) and ``line``
            (Int64, 1-based row or line number in the source).
        unreadable: ``line`` Int64, ``raw`` String, ``reason`` String: rows that could not be parsed at all.
        damaged: set when the rest of the source cannot be read (a truncated gzip): says why.
    """

    source: str
    rows: pl.DataFrame
    unreadable: pl.DataFrame = field(default_factory=unreadable)
    damaged: str | None = None

    @classmethod
    def broken(cls, source: str, damaged: str | None, bad: Sequence[BadRow] = ()) -> "RawBatch":
        """A batch without a readable row."""
        return cls(source, pl.DataFrame(schema={"line": pl.Int64()}), unreadable(bad), damaged)

    def __len__(self) -> int:
        return len(self.rows) + len(self.unreadable)


class Source(Protocol):
    """Anything that yields raw events in bounded batches."""

    @property
    def name(self) -> str:
        """What records call it, e.g. the file names."""

    def batches(self) -> Iterator[RawBatch]:
        """Checks the source at once (InputError), then yields its rows, streaming."""
