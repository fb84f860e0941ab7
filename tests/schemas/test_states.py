"""States go to Arrow and back without loss, however the table was cut."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.states import Column, StateBatch, StateSpec

NEVER = -(2**63)
SPEC = StateSpec(
    columns=(
        Column(name="total", dtype="float32", shape=(2, 3), bundle_dtype="float16"),
        Column(name="mass", dtype="float64", shape=(2,), bundle_dtype="float32", empty=float("-inf")),
        Column(name="at", dtype="int64", empty=NEVER),
        Column(name="code", dtype="int8", shape=(4,), per="item"),
        Column(name="time", dtype="int64", per="item"),
        Column(name="key", dtype="int64", per="item", head=False),
    ),
    capacity=5,
)


def batch(lengths: list[int], seed: int = 0) -> StateBatch:
    rng = np.random.default_rng(seed)
    n, items = len(lengths), sum(lengths)
    columns = {
        "total": rng.standard_normal((n, 2, 3)).astype(np.float32),
        "mass": rng.standard_normal((n, 2)),
        "at": rng.integers(-(2**62), 2**62, n),
        "code": rng.integers(-127, 128, (items, 4)).astype(np.int8),
        "time": rng.integers(-(2**62), 2**62, items),
        "key": rng.integers(-(2**62), 2**62, items),
    }
    return StateBatch(columns, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def same(a: StateBatch, b: StateBatch) -> None:
    np.testing.assert_array_equal(a.offsets, b.offsets)
    assert a.columns.keys() == b.columns.keys()
    for name in a.columns:
        np.testing.assert_array_equal(a.columns[name], b.columns[name], err_msg=name)
        assert a.columns[name].dtype == b.columns[name].dtype


def one(states: StateBatch, row: int) -> StateBatch:
    """User ``row`` alone, by plain slicing."""
    low, high = states.offsets[row], states.offsets[row + 1]
    items = {c.name for c in SPEC.columns if c.per == "item"}
    columns = {name: array[low:high] if name in items else array[row : row + 1] for name, array in states.columns.items()}
    return StateBatch(columns, np.array([0, high - low]))


LENGTHS = st.lists(st.integers(0, 5), max_size=7)


@settings(deadline=None)
@given(LENGTHS, st.data())
def test_arrow_round_trip_of_any_slice(lengths: list[int], data: st.DataObject) -> None:
    states = batch(lengths)
    table = states.to_arrow(SPEC)
    assert table.schema == SPEC.schema()
    same(StateBatch.from_arrow(table, SPEC), states)
    start = data.draw(st.integers(0, len(lengths)))
    count = data.draw(st.integers(0, len(lengths) - start))
    rows = np.arange(start, start + count)
    part = table.slice(start, count)
    same(StateBatch.from_arrow(part, SPEC), states.take(rows, SPEC))
    same(StateBatch.from_arrow(pa.concat_tables([table.slice(0, start), part]), SPEC), states.take(np.arange(start + count), SPEC))
    for record in part.combine_chunks().to_batches():
        same(StateBatch.from_arrow(record, SPEC), states.take(rows, SPEC))


@settings(deadline=None)
@given(LENGTHS, st.data())
def test_take(lengths: list[int], data: st.DataObject) -> None:
    states = batch(lengths)
    rows = np.array(data.draw(st.lists(st.integers(-1, len(lengths) - 1), max_size=9)), np.int64)
    taken = states.take(rows, SPEC)
    assert len(taken) == len(rows)
    for place, row in enumerate(rows):
        same(one(taken, place), StateBatch.empty(1, SPEC) if row < 0 else one(states, int(row)))


@settings(deadline=None)
@given(LENGTHS)
def test_head_inputs_pad_at_the_end(lengths: list[int]) -> None:
    states = batch(lengths)
    inputs = states.head_inputs(SPEC)
    assert list(inputs) == ["total", "mass", "at", "code", "time"]
    longest = max([1, *lengths])
    assert inputs["code"].shape == (len(lengths), longest, 4)
    assert inputs["mass"].dtype == np.float32
    assert inputs["at"].dtype == np.int64
    for user, length in enumerate(lengths):
        low = states.offsets[user]
        np.testing.assert_array_equal(inputs["code"][user, :length], states.columns["code"][low : low + length])
        np.testing.assert_array_equal(inputs["time"][user, :length], states.columns["time"][low : low + length])
        assert not inputs["code"][user, length:].any()
        assert not inputs["time"][user, length:].any()
    np.testing.assert_array_equal(inputs["total"], states.columns["total"])


@pytest.mark.parametrize("users", [0, 1, 3])
def test_empty(users: int) -> None:
    states = StateBatch.empty(users, SPEC)
    assert len(states) == users
    assert (states.columns["mass"] == -np.inf).all()
    assert (states.columns["at"] == NEVER).all()
    same(StateBatch.from_arrow(states.to_arrow(SPEC), SPEC), states)
    assert states.head_inputs(SPEC)["code"].shape == (users, 1, 4)


def test_more_items_than_arrow_can_count_are_refused() -> None:
    """List offsets are int32; they must not wrap around in silence."""
    wide = StateSpec((Column(name="code", dtype="int8", shape=(2**30,), per="item"),), 5)
    broad = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), (0, 2**30), (0, 0))
    with pytest.raises((pa.ArrowInvalid, OverflowError)):
        StateBatch({"code": broad}, np.array([0, 5])).to_arrow(wide)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Column,
            name=st.text(),
            dtype=st.sampled_from(["int8", "int64", "float16", "float32", "float64"]),
            shape=st.lists(st.integers(1, 9), max_size=3).map(tuple),
            per=st.sampled_from(["user", "item"]),
            bundle_dtype=st.sampled_from([None, "int8", "float16"]),
            head=st.booleans(),
            empty=st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)),
        )
    ),
    st.integers(0, 10**6),
)
def test_spec_survives_json(columns: list[Column], capacity: int) -> None:
    spec = StateSpec(tuple(columns), capacity)
    text = json.dumps(spec.to_json(), allow_nan=False)
    assert StateSpec.from_json(json.loads(text)) == spec
