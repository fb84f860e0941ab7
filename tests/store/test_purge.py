"""Purging: rows are gone from every file, and no writer that began before brings any back."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import ConflictError
from store.home import Home
from store.needles import Needles
from store.proof import prove
from store.purge import fence, fenced, purge
from store.tables import Tables

SCHEMA = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("who", pa.string()), pa.field("n", pa.int64(), nullable=False)])


@pytest.fixture
def tables(home: Home) -> Tables:
    return home.tables


#: Keys are hashes: long numbers that nothing else equals.
BASE = 7_654_321_987_654_321


def rows(*keys: int, n: int = 0) -> pa.Table:
    return pa.table({"key": [BASE + key for key in keys], "who": [f"person-{key:05}" for key in keys], "n": [n] * len(keys)}, SCHEMA)


def append(tables: Tables, table: pa.Table) -> None:
    tables.append("t", SCHEMA, iter(table.to_batches()), tables.mark("t", SCHEMA))


def keys(tables: Tables) -> list[int]:
    return sorted(key - BASE for key in tables.read("t", SCHEMA, ["key"]).column("key").to_pylist())


def among(*wanted: int) -> pc.Expression:
    return pc.field("key").isin(pa.array([BASE + key for key in wanted], pa.int64()))


def test_no_file_holds_a_purged_row(home: Home, tables: Tables) -> None:
    for n in range(4):
        append(tables, rows(*range(n, 40, 4), n=n))
    tables.open("t").create_scalar_index("key", "BTREE")  # type: ignore[union-attr]
    tables.open("t").create_scalar_index("who", "BTREE", name="names")  # type: ignore[union-attr]
    append(tables, rows(7, 41, n=9))
    needles = Needles(ids=frozenset({b"person-00007"}), keys=np.array([BASE + 7], np.int64))
    found = {hit.split(".lance/")[1].split("/")[0] for hit in prove(home, needles).hits}
    assert found == {"data", "_indices"}
    assert purge(tables, "t", among(7)) == 2
    assert not +prove(home, needles).hits
    assert keys(tables) == sorted({*range(40), 41} - {7})
    dataset = tables.open("t")
    assert dataset is not None
    assert sorted(index["name"] for index in dataset.list_indices()) == ["key_idx", "names"]
    assert dataset.scanner(filter=among(8)).to_table().num_rows == 1
    assert len(dataset.versions()) == 1
    assert purge(tables, "t", among(7)) == 0
    assert purge(tables, "missing", among(7)) == 0


def test_writers_that_began_before_are_refused(tables: Tables) -> None:
    append(tables, rows(1, 2))
    since = tables.mark("t", SCHEMA)
    staged = tables.stage("t", rows(3), since)
    data = Path(tables.uri) / "t.lance" / "data"

    def slow() -> Iterator[pa.RecordBatch]:
        yield from rows(*range(10)).to_batches()
        assert purge(tables, "t", among(1)) == 1
        yield from rows(1).to_batches()

    with pytest.raises(ConflictError):
        tables.append("t", SCHEMA, slow(), since)
    with pytest.raises(ConflictError):
        tables.commit("t", staged)
    assert keys(tables) == [2]
    assert len(list(data.iterdir())) == 1
    append(tables, rows(4))
    assert keys(tables) == [2, 4]


def test_appends_pass_each_other(tables: Tables) -> None:
    since = tables.mark("t", SCHEMA)
    append(tables, rows(1))
    assert not fenced(tables, "t", since)
    tables.append("t", SCHEMA, iter(rows(2).to_batches()), since)
    assert keys(tables) == [1, 2]
    fence(tables, "t")
    assert fenced(tables, "t", since)


def test_compaction_under_way_is_refused(tables: Tables) -> None:
    from lance.optimize import Compaction

    for n in range(3):
        append(tables, rows(n, 10 + n))
    dataset = tables.open("t")
    assert dataset is not None
    done = [task.execute(dataset) for task in Compaction.plan(dataset, options={}).tasks]  # type: ignore[typeddict-item]
    assert done
    purge(tables, "t", among(1))
    with pytest.raises(OSError, match=r"conflict|not found"):
        Compaction.commit(dataset, done)
    assert keys(tables) == [0, 2, 10, 11, 12]


def test_rows_in_their_place(tables: Tables) -> None:
    append(tables, rows(1, 2, 3))
    assert purge(tables, "t", among(1, 2), rows(2, n=5)) == 2
    assert sorted(tables.read("t", SCHEMA, ["key", "n"]).to_pylist(), key=lambda r: r["key"]) == [
        {"key": BASE + 2, "n": 5}, {"key": BASE + 3, "n": 0}
    ]  # fmt: skip
    assert purge(tables, "t", among(9), rows(9)) == 0
    assert keys(tables) == [2, 3, 9]


def test_another_commit_between_is_looked_at_again(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tables, rows(1, 2))
    real, calls = lance.LanceDataset.commit, []

    def late(uri: str, operation: object, **more: object) -> lance.LanceDataset:
        if isinstance(operation, lance.LanceOperation.Update) and not calls:
            calls.append(1)
            append(tables, rows(1, 3))
        return real(uri, operation, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(lance.LanceDataset, "commit", late)
    purge(tables, "t", among(1))
    assert calls
    assert keys(tables) == [2, 3]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=4), st.sets(st.integers(0, 12)))
def test_like_a_filtered_list(new_home: Callable[..., Home], parts: list[list[int]], doomed: set[int]) -> None:
    tables = new_home().tables
    purge(tables, "t", among(*range(13)))
    for part in parts:
        append(tables, rows(*part))
    everything = [key for part in parts for key in part]
    assert purge(tables, "t", among(*doomed)) == sum(key in doomed for key in everything)
    assert keys(tables) == sorted(key for key in everything if key not in doomed)


def test_several_at_once(home: Home, tables: Tables) -> None:
    """Purges, compactions of nobody's and appends pass each other: what was purged is gone, everything else is there once."""
    append(tables, rows(*range(60)))

    def write(start: int) -> None:
        for n in range(4):
            while True:
                try:
                    append(Tables(home.objects), rows(start + n))
                    break
                except ConflictError:
                    continue

    with ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(purge, Tables(home.objects), "t", among(*range(n, 30, 3))) for n in range(3)]
        jobs += [pool.submit(write, start) for start in (100, 200)]
        for job in jobs:
            job.result()
    assert keys(tables) == [*range(30, 60), *range(100, 104), *range(200, 204)]
    named = {data.path for f in tables.open("t").get_fragments() for data in f.metadata.files}  # type: ignore[union-attr]
    purge(tables, "t", among(0))
    assert {path.name for path in (Path(tables.uri) / "t.lance" / "data").iterdir()} == named
