"""Histories are what a nightly store held: never the same moment, never the future, never another user's."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.examples import DAY, Examples

START = 1_700_000_000 // DAY * DAY


@st.composite
def examples(draw: st.DrawFn) -> Examples:
    """Events of some users on a few days, often at midnight or at one moment, some known late; every event is an example."""
    moment = st.integers(0, 5 * DAY) | st.sampled_from([0, DAY, 2 * DAY, DAY - 1, DAY + 1])
    late = st.sampled_from([0, 0, 1, 3600, DAY, 3 * DAY])
    events = draw(st.lists(st.tuples(st.integers(0, 3), moment, late), min_size=1, max_size=30))
    events = sorted((user, START + ts + lag, START + ts) for user, ts, lag in events)
    user, known, ts = (np.array([e[i] for e in events], np.int64) for i in range(3))
    count = len(events)
    return Examples(
        vectors=(np.arange(2 * count, dtype=np.float16) + 1)[:, None].repeat(2, 1),
        known=known,
        ts=ts,
        key=np.arange(count, dtype=np.int64),
        text=np.arange(count, dtype=np.int64),
        target=np.where(np.arange(count) % 3 == 0, -1, count + np.arange(count)),
        value=np.where(np.arange(count) % 2 == 0, np.nan, np.arange(count)).astype(np.float32),
        tasks=["a", "b"],
        event_task=np.arange(count) % 3 - 1,
        first=np.searchsorted(user, user, side="left"),
        last=np.searchsorted(user, user, side="right"),
        user=user,
        now=ts,
        query=np.arange(count, dtype=np.int64),
        answer=count + np.arange(count),
        task=np.arange(count) % 3 - 1,
        prompts=[f"prompt {i}" for i in range(count)],
        targets=[f"target {i}" for i in range(count)],
    )


def loop(made: Examples, row: int, lag: int, size: int) -> list[int]:
    """Event keys of one example's history, by the definition."""
    midnight = made.now[row] - made.now[row] % DAY
    mine = [e for e in range(len(made.ts)) if made.user[e] == made.user[row] and made.known[e] < midnight - lag * DAY]
    return mine[-size:]


@settings(max_examples=80, deadline=None)
@given(examples(), st.data())
def test_histories_are_those_of_the_last_night(made: Examples, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(made) - 1), max_size=12)), np.int64)
    lags = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))), np.int64)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool)
    size = data.draw(st.integers(1, 6))
    found = made.histories(rows, lag_nights=lags, keep=keep, size=size)
    for i, row in enumerate(rows):
        history = found.key[found.user == i]
        assert history.tolist() == (loop(made, row, int(lags[i]), size) if keep[i] else [])
        assert len(history) <= size
        assert (made.user[history] == made.user[row]).all()
        cut = made.now[row] // DAY * DAY - DAY * lags[i]
        assert (made.known[history] < cut).all()
        assert (found.ts[found.user == i] < made.now[row]).all()
    assert np.isin(found.user, np.arange(len(rows))).all()


@settings(max_examples=40, deadline=None)
@given(examples())
def test_events_carry_their_own_vectors_and_values(made: Examples) -> None:
    found = made.histories(np.arange(len(made)), size=5)
    key = found.key
    assert (found.text[:, 0] == key + 1).all()
    absent = made.target[key] < 0
    assert not found.target[absent].any()
    assert (found.target[~absent][:, 0] == len(made) + key[~absent] + 1).all()
    np.testing.assert_array_equal(found.value, made.value[key])
    np.testing.assert_array_equal(found.ts, made.ts[key])
    # Zeroing the absent targets must not have touched the table of vectors.
    assert made.vectors.all()


def day_of_events(known_hours: list[float], now_hours: float) -> Examples:
    known = np.array([START + int(h * 3600) for h in known_hours], np.int64)
    one, count = np.zeros(1, np.int64), len(known)
    return Examples(
        vectors=np.ones((count, 2), np.float16), known=known, ts=known, key=np.arange(count), text=np.arange(count),
        target=np.full(count, -1), value=np.zeros(count, np.float32),
        tasks=(), event_task=np.full(count, -1), first=one, last=one + count, user=one,
        now=one + START + int(now_hours * 3600), query=one, answer=one, task=one - 1, prompts=[""], targets=[""],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("now", "lag", "wanted"),
    [(30, 0, [0, 1]), (24, 0, [0, 1]), (23.9, 0, []), (47.99, 0, [0, 1]), (48, 0, [0, 1, 2, 3]), (48, 1, [0, 1]), (96, 4, [])],
)
def test_the_cut_is_midnight_utc_and_midnight_itself_is_not_in(now: float, lag: int, wanted: list[int]) -> None:
    made = day_of_events([0, 23.99, 24, 30, 48], now)
    assert made.histories(np.zeros(1, np.int64), lag_nights=lag, size=9).key.tolist() == wanted


@settings(max_examples=30, deadline=None)
@given(examples(), examples())
def test_joined_examples_keep_their_histories(one: Examples, other: Examples) -> None:
    other = replace(other, vectors=one.vectors, text=other.text % len(one), target=np.full(len(other), -1))
    both = one.joined(other)
    for part, offset in ((one, 0), (other, len(one))):
        rows = np.arange(len(part))
        mine, theirs = both.histories(rows + offset, size=5), part.histories(rows, size=5)
        for name in ("user", "ts", "key", "text", "target", "value"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert [both.prompts[i + offset] for i in rows] == part.prompts
        assert both.take(rows + offset).task.tolist() == part.task.tolist()
    assert both.event_task.tolist() == [*one.event_task.tolist(), *other.event_task.tolist()]


def test_no_examples_no_events() -> None:
    assert len(day_of_events([0], 30).histories(np.zeros(0, np.int64), size=3)) == 0


def with_users(users: list[int]) -> Examples:
    array = np.array(users, np.int64)
    made = day_of_events([0], 30)
    return Examples(**{**vars(made), "user": array, "now": np.zeros(len(array), np.int64)})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 99))
def test_a_stranger_is_another_user_wherever_there_are_two(users: list[int], seed: int) -> None:
    made = with_users(users)
    rows = np.arange(len(users))[::2]
    strangers = made.strangers(rows, np.random.default_rng(seed))
    assert np.isin(strangers, rows).all()
    if len(set(made.user[rows].tolist())) > 1:
        assert (made.user[strangers] != made.user[rows]).all()


def test_a_stranger_is_found_beside_one_heavy_user() -> None:
    made = with_users([0] * 500 + [1])
    strangers = made.strangers(np.arange(501), np.random.default_rng(0))
    assert (made.user[strangers] != made.user).all()


def test_strangers_vary() -> None:
    made = with_users(list(range(50)))
    strangers = made.strangers(np.arange(50), np.random.default_rng(0))
    assert len(set(strangers.tolist())) > 25
