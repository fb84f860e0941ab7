"""What a bundle keeps of a state: small types, records without padding, a scale for each row."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schemas.errors import InputError
from schemas.states import Column, StateBatch, StateSpec
from store.packing import LAYOUT, bundle_spec, pack, records, states_schema, unpack

SPEC = StateSpec(
    (
        Column(name="total", dtype="float32", shape=(2, 3), bundle_dtype="float16"),
        Column(name="mass", dtype="float64", shape=(2,), bundle_dtype="float32", empty=float("-inf")),
        Column(name="at", dtype="int64", empty=-(2**62)),
        Column(name="bank", dtype="float32", shape=(4,), per="item", bundle_dtype="float16"),
        Column(name="time", dtype="int64", per="item"),
        Column(name="key", dtype="int64", per="item", head=False),
    ),
    5,
)


def batch(lengths: list[int], seed: int = 0) -> StateBatch:
    rng, users, items = np.random.default_rng(seed), len(lengths), sum(lengths)
    columns = {
        "total": rng.standard_normal((users, 2, 3)).astype(np.float32),
        "mass": rng.standard_normal((users, 2)),
        "at": rng.integers(0, 2**40, users),
        "bank": rng.standard_normal((items, 4)).astype(np.float32),
        "time": rng.integers(0, 2**40, items),
        "key": rng.integers(0, 2**40, items),
    }
    return StateBatch(columns, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def test_columns_of_a_bundle() -> None:
    half = bundle_spec(SPEC, "float16")
    assert {c.name: c.dtype for c in half.columns} == {
        "total": "float16", "mass": "float32", "at": "int64", "bank": "float16", "time": "int64"
    }  # fmt: skip
    small = bundle_spec(SPEC, "int8")
    assert {c.name: (c.dtype, c.shape, c.scale) for c in small.columns} == {
        "total": ("int8", (2, 3), "total_scale"), "total_scale": ("float32", (2,), ""), "mass": ("float32", (2,), ""),
        "at": ("int64", (), ""), "bank": ("int8", (4,), "bank_scale"), "bank_scale": ("float32", (), ""), "time": ("int64", (), ""),
    }  # fmt: skip
    assert [half.record(per).itemsize for per in ("user", "item")] == [12 + 8 + 8, 8 + 8]
    assert [small.record(per).itemsize for per in ("user", "item")] == [6 + 8 + 8 + 8, 4 + 4 + 8]
    assert StateSpec.from_json(small.to_json()) == small
    assert "scale" not in str(half.to_json()), "the aggregator's hash covers the spec as it was before bundles had scales"


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 5, 0, 2]])
def test_records_give_back_what_was_packed(precision: str, lengths: list[int]) -> None:
    spec = bundle_spec(SPEC, precision)  # type: ignore[arg-type]
    states = pack(batch(lengths), spec)
    made = records(np.arange(len(lengths)), states, spec)
    assert StateSpec.from_json(json.loads(made.schema.metadata[LAYOUT])) == spec
    assert made.schema == states_schema(spec)
    made.validate(full=True)
    found = unpack(pa.ipc.read_record_batch(pa.ipc.read_message(made.serialize()), made.schema), spec)
    np.testing.assert_array_equal(found.offsets, states.offsets)
    for name, array in states.columns.items():
        np.testing.assert_array_equal(found.columns[name], array)
    user, item = spec.record("user"), spec.record("item")
    for row, (low, high) in enumerate(pairwise(states.offsets)):
        raw = made.column("user")[row].as_py()
        assert raw == b"".join(states.columns[n][row].tobytes() for n in user.names or ())
        assert len(made.column("items")[row].as_py()) == (high - low) * item.itemsize


@settings(deadline=None, max_examples=50)
@given(arrays(np.float32, (3, 2, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_int8_is_off_by_half_a_step_at_most(total: np.ndarray) -> None:
    spec = bundle_spec(StateSpec(SPEC.columns[:1], 5), "int8")
    packed = pack(StateBatch({"total": total}, np.zeros(4, np.int64)), spec)
    found = packed.head_inputs(spec)["total"]
    assert found.dtype == np.float32
    step = np.abs(total).max(-1, keepdims=True) / 127
    assert (np.abs(found - total) <= 0.5001 * step + 1e-30).all()
    again = pack(StateBatch({"total": found}, packed.offsets), spec)
    assert np.abs(again.columns["total"].astype(int) - packed.columns["total"]).max() <= 1


def test_what_int8_cannot_hold() -> None:
    states = batch([1])
    states.columns["total"][0, 0, 0] = np.nan
    pack(states, bundle_spec(SPEC, "float16"))
    with pytest.raises(InputError, match="total"):
        pack(states, bundle_spec(SPEC, "int8"))
