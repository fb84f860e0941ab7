"""A frame of an Arrow table copies none of its numbers."""

import pyarrow as pa

from store.frames import to_polars


def test_chunks_stay_where_they_are() -> None:
    table = pa.concat_tables([pa.table({"n": [n, 2, 3], "s": ["a", "b", None]}) for n in (0, 1)])
    frame = to_polars(table)
    assert frame.to_dict(as_series=False) == table.to_pydict()
    found = [chunk.to_numpy(allow_copy=False).ctypes.data for chunk in frame["n"].get_chunks()]
    assert found == [chunk.buffers()[1].address for chunk in table.column("n").chunks]


def test_an_empty_table_keeps_its_columns() -> None:
    assert to_polars(pa.schema([("n", pa.int64())]).empty_table()).columns == ["n"]
