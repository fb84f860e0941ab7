"""Tables of events in files: Parquet, CSV, TSV and JSON lines, with a mapping of columns to fields."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import polars as pl

from pipelines.sources import RawBatch
from pipelines.sources.delimited import header, read_delimited
from pipelines.sources.files import File, resolve
from pipelines.sources.jsonl import read_jsonl
from pipelines.sources.parquet import columns as parquet_columns
from pipelines.sources.parquet import read_parquet
from schemas.errors import ConfigError, InputError
from schemas.events import FIELDS, REQUIRED


class TableSource:
    """Events in files, read as a stream: a few blocks of 8 to 16 MiB in memory, whatever the size of the input.

    Args:
        files: each a file, a directory (all supported files below it, sorted), a glob, or an object-store URI
            (``s3://``, ``gs://``, ``az://``; endpoint and credentials from the usual variables, ``AWS_ENDPOINT_URL`` …).
            ``.parquet``, ``.csv``, ``.tsv``, ``.jsonl`` (``.ndjson``), text formats also ``.gz``.
        mapping: field → column. A field not mapped takes the column of its own name, if there is one.
        constants: field → value, the same for every row.

    Raises:
        ConfigError: an unknown field, or one that is both mapped and constant.
    """

    def __init__(self, files: Sequence[str], mapping: Mapping[str, str] | None = None, constants: Mapping[str, str] | None = None) -> None:
        self.files = list(files)
        self.mapping, self.constants = dict(mapping or {}), dict(constants or {})
        for field in [*self.mapping, *self.constants]:
            if field not in FIELDS:
                raise ConfigError(f"no field is named {field!r}", where="--map / --const", mend=f"use one of {', '.join(FIELDS)}")
        for field in self.mapping.keys() & self.constants.keys():
            raise ConfigError(f"field {field!r} is both mapped and constant", mend="keep one")
        if not self.files:
            raise ConfigError("no file is named", mend="name a file, a directory or a glob")

    @property
    def name(self) -> str:
        """The entries as given."""
        return ", ".join(self.files)

    def batches(self) -> Iterator[RawBatch]:
        """Checks that every file is there and has its columns, then yields the rows.

        Raises:
            InputError: a file that is missing or is not what its name says, or a required column that it does not have.
        """
        files = resolve(self.files)
        chosen = {file.name: self._choose(file) for file in files}
        return self._read(files, chosen)

    def _read(self, files: Sequence[File], chosen: Mapping[str, Mapping[str, str]]) -> Iterator[RawBatch]:
        needed = set(self.mapping) | set(self._required(chosen={}))
        for file in files:
            columns = chosen[file.name]
            if file.format == "parquet":
                batches = read_parquet(file, columns)
            elif file.format == "jsonl":
                batches = read_jsonl(file, columns, [field for field in columns if field in needed])
            else:
                batches = read_delimited(file, columns)
            for batch in batches:
                if len(batch.rows):
                    if file.format == "jsonl":
                        needed = set()  # a later file may well lack a key
                    rows = batch.rows.with_columns(pl.lit(v).alias(field) for field, v in self.constants.items())
                    yield replace(batch, rows=rows)
                elif len(batch) or batch.damaged:
                    yield batch

    def _choose(self, file: File) -> dict[str, str]:
        """Field → column of one file; the keys of JSON lines are known only row by row, so all are asked for."""
        own = {field: field for field in FIELDS if field not in self.constants} | self.mapping
        if file.format == "jsonl":
            return own
        there = parquet_columns(file) if file.format == "parquet" else header(file)
        if there is None:
            return {}
        chosen = {field: column for field, column in own.items() if column in there}
        wanted = set(self.mapping) | set(self._required(chosen))
        missing = [own[field] for field in own if field in wanted and field not in chosen]
        if missing:
            raise InputError(
                f"no column {', '.join(map(repr, missing))}; columns there: {', '.join(there)}",
                where=file.name, mend="name it with --map FIELD=COLUMN",
            )  # fmt: skip
        return chosen

    def _required(self, chosen: Mapping[str, str]) -> list[str]:
        """Fields no row can do without; where rows may be deletes, only the user."""
        may_delete = "op" in self.constants or "op" in self.mapping or "op" in chosen
        return [field for field in (REQUIRED[:1] if may_delete else REQUIRED) if field not in self.constants]
