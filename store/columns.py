"""Columns that a table of an earlier release lacks: whoever reads it finds nulls, and nothing is written for that."""

from collections.abc import Sequence
from typing import TypeVar

import lance
import pyarrow as pa

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def there(dataset: lance.LanceDataset, columns: Sequence[str], schema: pa.Schema | None) -> list[str]:
    """The columns, without those that the schema lets be null and the table lacks."""
    return [column for column in columns if schema is None or column in dataset.schema.names or not schema.field(column).nullable]


def whole(rows: Rows, columns: Sequence[str], schema: pa.Schema | None) -> Rows:
    """Rows with nulls for the columns that their table lacks."""
    lacking = [column for column in columns if column not in rows.schema.names]
    if schema is None or not lacking:
        return rows
    for column in lacking:
        rows = rows.append_column(schema.field(column), pa.nulls(rows.num_rows, schema.field(column).type))
    return rows.select(list(columns))
