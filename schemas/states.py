"""What a personalizer stores per user: the columns of its state.

A personalizer declares a ``StateSpec``; store, pipeline, bundle and client read it and never ask which
method it is. A ``user`` column holds one array of fixed shape per user, an ``item`` column one array per
remembered item, at most ``capacity`` of them, oldest first.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

DType = Literal["int8", "int64", "float16", "float32", "float64"]
_ARROW: dict[str, pa.DataType] = {
    "int8": pa.int8(),
    "int64": pa.int64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}


@dataclass(frozen=True)
class Column:
    """One column of a state.

    Attributes:
        shape: the array's shape per user, or per item.
        per: whether the array belongs to the user or to each remembered item.
        dtype: the type in the store, where merges must be exact.
        bundle_dtype: the type in a bundle, where bytes count.
        head: whether the fusion head reads it (one declared input per such column).
        empty: value of a user column for a user without events.
        scale: name of the float32 column that multiplies this int8 one, one number for each row of its last axis; only in bundles.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()
    per: Literal["user", "item"] = "user"
    bundle_dtype: DType | None = None
    head: bool = True
    empty: float = 0
    scale: str = ""

    @property
    def width(self) -> int:
        """Numbers per user or item."""
        width = 1
        for size in self.shape:
            width *= size
        return width

    def arrow(self) -> pa.DataType:
        """Arrow type: a scalar, ``fixed_size_list`` (user column) or ``list`` (item column, flattened)."""
        value = _ARROW[self.dtype]
        if self.per == "item":
            return pa.list_(value)
        return pa.list_(value, self.width) if self.shape else value


@dataclass(frozen=True)
class StateSpec:
    """The columns of one personalizer's state and how many items it remembers at most."""

    columns: tuple[Column, ...]
    capacity: int

    def schema(self) -> pa.Schema:
        """Arrow schema of the columns, as stored."""
        return pa.schema([pa.field(c.name, c.arrow(), nullable=False) for c in self.columns])

    def record(self, per: Literal["user", "item"]) -> np.dtype[Any]:
        """Layout of one user's, or one item's, record in a bundle: the columns in order, little-endian, no padding."""
        return np.dtype([(c.name, np.dtype(c.dtype).newbyteorder("<"), c.shape) for c in self.columns if c.per == per])

    def row_bytes(self, columns: Collection[str]) -> int:
        """Bytes of one user's row of these columns, at most; of columns of the spec alone."""
        held = ((c, self.capacity if c.per == "item" else 1) for c in self.columns if c.name in columns)
        return sum(np.dtype(c.dtype).itemsize * c.width * items for c, items in held)

    @property
    def vector_columns(self) -> list[str]:
        """The user columns that make up a user's vector: those that hold arrays of float32."""
        return [c.name for c in self.columns if c.per == "user" and c.shape and c.dtype == "float32"]

    def vectors(self, table: pa.Table) -> npt.NDArray[np.float32]:
        """Each user's vector, float32 ``[n, width]``: what distances between states are measured on."""
        parts = [np.zeros((table.num_rows, 0), np.float32)]
        for column in (c for c in self.columns if c.name in self.vector_columns):
            flat = table.column(column.name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
            parts.append(flat.reshape(table.num_rows, column.width))
        return np.concatenate(parts, 1)

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data; an infinite ``empty`` is written as text, since JSON has none."""
        columns = [{**asdict(c), "empty": str(c.empty)} for c in self.columns]
        for column in columns:
            if not column["scale"]:  # the store's columns have none, and their spec is part of the aggregator's hash
                del column["scale"]
        return {"capacity": self.capacity, "columns": columns}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "StateSpec":
        """The spec that ``to_json`` wrote."""
        columns = tuple(Column(**{**c, "shape": tuple(c["shape"]), "empty": _number(c["empty"])}) for c in data["columns"])
        return cls(columns, int(data["capacity"]))


def _number(text: str) -> float:
    """int where it is one: int64's far ends have no float64."""
    try:
        return int(text)
    except ValueError:
        return float(text)


#: Beside the spec's columns, every row of ``states`` carries these. ``run`` names the refresh that wrote it;
#: a version's record lists the runs that make it up. ``event_count`` 0 marks a user whose events are all gone.
STATE_KEYS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("user_key", pa.int64(), nullable=False),
        pa.field("run", pa.int64(), nullable=False),
        pa.field("event_count", pa.int64(), nullable=False),
        pa.field("first_ts", pa.timestamp("us", tz="UTC")),
        pa.field("last_ts", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(eq=False)  # not frozen: a lookup makes one, and that would be a tenth of its time
class StateBatch:
    """States of n users as arrays.

    Attributes:
        columns: per user column ``[n, *shape]``; per item column the items of all users laid end to end, ``[items, *shape]``.
        offsets: int64 ``[n + 1]``; user i's items are ``offsets[i]:offsets[i + 1]``, oldest first.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_arrow(cls, table: pa.Table | pa.RecordBatch, spec: StateSpec) -> "StateBatch":
        """Arrays of a table that has the spec's columns; copies nothing that is contiguous already."""
        columns: dict[str, npt.NDArray[Any]] = {}
        offsets = np.zeros(table.num_rows + 1, np.int64)
        for column in spec.columns:
            array = table.column(column.name)
            if isinstance(array, pa.ChunkedArray):
                array = array.combine_chunks()
            if column.per == "item":
                ends = array.offsets.to_numpy().astype(np.int64)
                offsets = (ends - ends[0]) // column.width
                flat = array.values.to_numpy(zero_copy_only=False)[ends[0] : ends[-1]]
                columns[column.name] = flat.reshape(-1, *column.shape)
            else:
                flat = (array.flatten() if column.shape else array).to_numpy(zero_copy_only=False)
                columns[column.name] = flat.reshape(table.num_rows, *column.shape)
        return cls(columns, offsets)

    def to_arrow(self, spec: StateSpec) -> pa.Table:
        """Table of the spec's columns, in the store's types."""
        arrays = []
        for column in spec.columns:
            flat = pa.array(np.ascontiguousarray(self.columns[column.name]).astype(column.dtype, copy=False).reshape(-1))
            if column.per == "item":
                arrays.append(pa.ListArray.from_arrays(pa.array(self.offsets * column.width, pa.int32()), flat))
            elif column.shape:
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, column.width))
            else:
                arrays.append(flat)
        return pa.Table.from_arrays(arrays, schema=spec.schema())

    def take(self, rows: npt.NDArray[np.int64], spec: StateSpec) -> "StateBatch":
        """States of the users at ``rows``, in that order; -1 gives the empty state of an unknown user."""
        known = rows >= 0
        starts = np.where(known, self.offsets[rows], 0)
        lengths = np.where(known, self.offsets[rows + 1], 0) - starts
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        items = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        columns = {}
        for column in spec.columns:
            if column.name not in self.columns:
                continue
            source = self.columns[column.name]
            if column.per == "item":
                columns[column.name] = source[items]
            else:
                taken = np.full((len(rows), *column.shape), column.empty, source.dtype)
                taken[known] = source[rows[known]]
                columns[column.name] = taken
        return StateBatch(columns, offsets)

    def head_inputs(self, spec: StateSpec) -> dict[str, npt.NDArray[Any]]:
        """One array per column the head reads: ``[n, *shape]``, item columns padded at the end to ``[n, items, *shape]``.

        Floats become float32, scaled integers are multiplied by their scale; padding is zero; at least one item slot is there, so
        that no dimension is empty.
        """
        lengths = np.diff(self.offsets)
        longest = max(1, int(lengths.max(initial=0)))
        inside = np.arange(longest)[None, :] < lengths[:, None]
        inputs: dict[str, npt.NDArray[Any]] = {}
        for column in spec.columns:
            if not column.head:
                continue
            array = self.columns[column.name]
            if column.scale:
                array = array * self.columns[column.scale][..., None]
            elif array.dtype.kind == "f":
                array = array.astype(np.float32, copy=False)
            if column.per == "item":
                padded = np.zeros((len(self), longest, *column.shape), array.dtype)
                padded[inside] = array
                array = padded
            inputs[column.name] = np.ascontiguousarray(array)
        return inputs

    @classmethod
    def empty(cls, users: int, spec: StateSpec) -> "StateBatch":
        """The identity of ``update``: ``users`` users without events."""
        columns = {
            c.name: np.zeros((0, *c.shape), c.dtype) if c.per == "item" else np.full((users, *c.shape), c.empty, c.dtype)
            for c in spec.columns
        }
        return cls(columns, np.zeros(users + 1, np.int64))
