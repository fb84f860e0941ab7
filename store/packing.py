"""What a bundle keeps of a state: the columns the head reads, in small types, as one record a user and one an item.

Two choices: ``float16`` takes each column in the bundle's type that its personalizer names; ``int8`` also cuts the columns
named float16 down to int8, with a float32 scale for each row of their last axis (the largest magnitude becomes 127).
"""

import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import InputError
from schemas.states import Column, StateBatch, StateSpec

Precision = Literal["float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float16", "int8")
_STEPS = 127
LAYOUT = b"tapstate.spec"


def bundle_spec(spec: StateSpec, precision: Precision) -> StateSpec:
    """The columns a bundle holds, in its types; a quantised column is followed by its scales."""
    columns: list[Column] = []
    for column in spec.columns:
        if not column.head:
            continue
        small = replace(column, dtype=column.bundle_dtype or column.dtype, bundle_dtype=None)
        # A scale cannot give back an "empty" other than zero.
        if precision == "int8" and small.dtype == "float16" and small.shape and small.empty == 0:
            scale = f"{column.name}_scale"
            columns.append(replace(small, dtype="int8", scale=scale))
            columns.append(Column(name=scale, dtype="float32", shape=column.shape[:-1], per=column.per, head=False))
        else:
            columns.append(small)
    return StateSpec(tuple(columns), spec.capacity)


def pack(states: StateBatch, packed: StateSpec) -> StateBatch:
    """``states`` in the types of ``packed``, a ``bundle_spec``.

    Raises:
        InputError: a number that is not finite where a scale is needed.
    """
    columns: dict[str, npt.NDArray[Any]] = {}
    for column in packed.columns:
        if column.name in columns:
            continue
        array = states.columns[column.name]
        if not column.scale:
            columns[column.name] = array.astype(column.dtype, copy=False)
            continue
        if not np.isfinite(array).all():
            raise InputError(
                f"column {column.name} holds NaN or infinity, which int8 cannot", where="states", mend="tapstate bundle --states float16"
            )
        scale = (np.abs(array).max(-1, initial=0) / _STEPS).astype(np.float32)
        # Rounded by the scale as it is stored; a row of zeros has the scale 0.
        columns[column.name] = np.rint(array / np.where(scale > 0, scale, 1)[..., None]).clip(-_STEPS, _STEPS).astype(np.int8)
        columns[column.scale] = scale
    return StateBatch(columns, states.offsets)


def records(keys: npt.NDArray[np.int64], states: StateBatch, packed: StateSpec) -> pa.RecordBatch:
    """Packed states as Arrow: ``key``, ``user`` fixed_size_binary, one record a user, and ``items`` large_binary, their items' records."""
    flat = {}
    for per, rows in (("user", len(states)), ("item", int(states.offsets[-1]))):
        table = np.zeros(rows, packed.record(per))  # type: ignore[arg-type]
        for name in table.dtype.names or ():
            table[name] = states.columns[name]
        flat[per] = pa.py_buffer(table.tobytes())
    width, step = packed.record("user").itemsize, packed.record("item").itemsize
    ends = pa.py_buffer((states.offsets * step).astype("<i8").tobytes())
    user = pa.Array.from_buffers(pa.binary(width), len(states), [None, flat["user"]])
    items = pa.Array.from_buffers(pa.large_binary(), len(states), [None, ends, flat["item"]])
    return pa.RecordBatch.from_arrays([pa.array(keys, pa.int64()), user, items], schema=states_schema(packed))


def unpack(batch: pa.RecordBatch, packed: StateSpec) -> StateBatch:
    """The states that ``records`` wrote, as views of it."""
    user, item = packed.record("user"), packed.record("item")
    _, (_, users), (_, ends, items) = (column.buffers() for column in batch.columns)
    offsets = np.frombuffer(ends, "<i8", batch.num_rows + 1) // max(1, item.itemsize)
    columns: dict[str, npt.NDArray[Any]] = {}
    for dtype, buffer, rows in ((user, users, batch.num_rows), (item, items, int(offsets[-1]))):
        if dtype.names:
            table: npt.NDArray[Any] = np.frombuffer(buffer, dtype, rows) if rows else np.zeros(0, dtype)
            columns.update({name: table[name] for name in dtype.names})
    return StateBatch(columns, offsets)


def states_schema(packed: StateSpec) -> pa.Schema:
    """Arrow schema of a states file; its metadata tell the layout of ``user``, for who finds the file alone."""
    return pa.schema(
        [
            pa.field("key", pa.int64(), nullable=False),
            pa.field("user", pa.binary(packed.record("user").itemsize), nullable=False),
            pa.field("items", pa.large_binary(), nullable=False),
        ],
        {LAYOUT: json.dumps(packed.to_json())},
    )
