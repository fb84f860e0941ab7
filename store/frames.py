"""Arrow tables as Polars frames."""

import polars as pl
import pyarrow as pa


def to_polars(table: pa.Table) -> pl.DataFrame:
    """The table as a frame over the same numbers; ``pl.DataFrame(table)`` joins chunks, which copies them all."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
