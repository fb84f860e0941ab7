"""A user's state at a version is their row of the latest of its runs."""

from uuid import uuid4

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.keys import user_key
from schemas.states import Column, StateSpec
from store.home import Home
from store.states import States

SPEC = StateSpec((Column(name="mark", dtype="int64"),), 1)


@pytest.fixture
def states(home: Home) -> States:
    return States(home, "aggregator", SPEC)


def write(states: States, run: int, marks: dict[str, int], gone: tuple[str, ...] = ()) -> None:
    users = sorted(marks, key=user_key)
    rows = {
        "user_id": users,
        "user_key": [user_key(user) for user in users],
        "run": [run] * len(users),
        "event_count": [0 if user in gone else 1 for user in users],
        "first_ts": [None] * len(users),
        "last_ts": [None] * len(users),
        "mark": [marks[user] for user in users],
    }
    table = pl.DataFrame(rows, schema_overrides={"first_ts": pl.Datetime("us", "UTC"), "last_ts": pl.Datetime("us", "UTC")})
    states.commit(run, states.stage(table.to_arrow(compat_level=pl.CompatLevel.oldest()), states.mark()))


def marks(states: States, runs: tuple[int, ...], **options: object) -> dict[str, int]:
    table = states.read(runs, ["user_id", "mark"], **options)  # type: ignore[arg-type]
    found = dict(zip(table.column("user_id").to_pylist(), table.column("mark").to_pylist(), strict=True))
    assert len(found) == table.num_rows
    return found


def test_latest_of_the_runs(states: States) -> None:
    """Age follows a version's list of runs, not the runs' numbers, which are random."""
    write(states, 900, {"a": 1, "b": 1, "c": 1})
    write(states, 5, {"a": 2})
    write(states, 400, {"b": 3, "d": 3})
    assert marks(states, (900,)) == {"a": 1, "b": 1, "c": 1}
    assert marks(states, (900, 5)) == {"a": 2, "b": 1, "c": 1}
    assert marks(states, (900, 5, 400)) == {"a": 2, "b": 3, "c": 1, "d": 3}
    assert marks(states, (5,)) == {"a": 2}
    assert marks(states, ()) == {}
    assert marks(states, (7,)) == {}


def test_tombstones(states: States) -> None:
    write(states, 1, {"a": 1, "b": 1})
    write(states, 2, {"a": 0}, gone=("a",))
    assert marks(states, (1, 2)) == {"b": 1}
    assert marks(states, (1, 2), gone=True) == {"a": 0, "b": 1}
    assert states.user((1, 2), "a").num_rows == 0
    write(states, 3, {"a": 3})
    assert marks(states, (1, 2, 3)) == {"a": 3, "b": 1}
    assert marks(states, (1,)) == {"a": 1, "b": 1}


def test_ids_are_data(states: States) -> None:
    odd = ["x' OR 1=1", "x", "", "'", "x\0y", "日本", "%"]
    write(states, 1, {user: n for n, user in enumerate(odd)})
    for n, user in enumerate(odd):
        assert states.user((1,), user).column("mark").to_pylist() == [n]
    assert states.user((1,), "x' OR 1=2").num_rows == 0


def test_keys_and_ranges(states: States) -> None:
    users = {f"u{i}": i for i in range(30)}
    write(states, 1, users)
    keys = np.array([user_key("u3"), user_key("u9"), user_key("nobody")])
    assert marks(states, (1,), keys=keys) == {"u3": 3, "u9": 9}
    middle = user_key("u7")
    below, above = marks(states, (1,), high=middle - 1), marks(states, (1,), low=middle)
    assert {**below, **above} == users
    assert "u7" in above
    assert not below.keys() & above.keys()
    in_order = states.read((1,), ["user_key"]).column("user_key").to_pylist()
    assert in_order == sorted(in_order)


def test_commit_happens_once(states: States, home: Home) -> None:
    write(states, 1, {"a": 1})
    staged = states.stage(states.read((1,)), states.mark())
    states.commit(1, staged)
    states.commit(1, staged)
    assert home.tables.open(states.name).count_rows() == 1  # type: ignore[union-attr]


def test_racing_commits_of_one_run_read_as_one(states: States, home: Home) -> None:
    """Two refreshes of one plan may both find the run missing and append it; nobody is there twice."""
    write(states, 1, {"a": 1, "b": 2})
    staged = states.stage(states.read((1,)), states.mark())
    home.tables.commit(states.name, staged)
    assert home.tables.open(states.name).count_rows() == 4  # type: ignore[union-attr]
    assert marks(states, (1,)) == {"a": 1, "b": 2}
    assert states.user((1,), "a").num_rows == 1


def test_staged_rows_are_invisible_until_committed(states: States) -> None:
    write(states, 1, {"a": 1})
    table = states.read((1,))
    states.stage(table.set_column(table.schema.get_field_index("run"), "run", [[2]]), states.mark())
    assert marks(states, (1, 2)) == {"a": 1}
    assert marks(states, (2,)) == {}


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), min_size=1), min_size=1, max_size=4), st.randoms())
def test_like_a_dictionary_updated(home: Home, writes: list[dict[str, int]], random: object) -> None:
    states = States(home, uuid4().hex, SPEC)
    runs = tuple(random.sample(range(1000), len(writes)))  # type: ignore[attr-defined]
    expected: dict[str, int] = {}
    for run, written in zip(runs, writes, strict=True):
        write(states, run, written, gone=tuple(user for user, mark in written.items() if mark == 0))
        expected |= written
    left = {user: mark for user, mark in expected.items() if mark}
    assert marks(states, runs) == left
    keys, whole = np.array([user_key(user) for user in "abcdefg"]), states.read(runs)
    for few in (0, 1_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("store.rows.FEW", few)
            assert states.read(runs, keys=keys).equals(whole)
            assert marks(states, runs, keys=keys[:3]) == {user: mark for user, mark in left.items() if user in "abc"}


@pytest.mark.parametrize("few", [0, 1_000], ids=["by a pass", "by filter"])
def test_two_users_of_one_key(states: States, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Each has a state of their own, though another run wrote it."""
    monkeypatch.setattr("store.rows.FEW", few)
    monkeypatch.setattr(f"{__name__}.user_key", lambda user: 7)
    write(states, 1, {"a": 1, "b": 1})
    write(states, 2, {"b": 2})
    assert marks(states, (1, 2), keys=np.array([7])) == {"a": 1, "b": 2}
