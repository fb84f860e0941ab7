"""Looking rows up by many keys at once; tables that an earlier release made."""

from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from schemas.errors import ConflictError, CorruptError
from store.home import Home
from store.places import fragments
from store.purge import purge
from store.tables import Tables
from store.upkeep import compact, index

SCHEMA = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("run", pa.int64(), nullable=False), pa.field("n", pa.int64())])


def append(tables: Tables, keys: range, run: int) -> None:
    table = pa.table({"key": list(keys), "run": [run] * len(keys), "n": [100 * run + key for key in keys]}, SCHEMA)
    tables.append("t", SCHEMA, iter(table.to_batches()), tables.mark("t", SCHEMA))


def find(tables: Tables, keys: range, *runs: int) -> list[int]:
    found = tables.find("t", SCHEMA, ["n"], {"key": np.array(keys, np.int64), "run": np.array(runs, np.int64)})
    assert found.schema == pa.schema([SCHEMA.field("n")])
    return sorted(found.column("n").to_pylist())


@pytest.mark.parametrize("few", [0, 1_000], ids=["by a pass", "by filter"])
def test_the_rows_whose_columns_are_among_the_values(home: Home, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Over several fragments, with rows deleted, after a compaction too."""
    monkeypatch.setattr("store.rows.FEW", few)
    monkeypatch.setattr("store.places.PASS_ROWS", 7)
    tables = home.tables
    assert find(tables, range(3), 1) == []
    for run in (1, 2, 3):
        append(tables, range(40), run)
    assert find(tables, range(10, 50), 1, 3) == [*range(110, 140), *range(310, 340)]
    dataset = tables.open("t")
    assert dataset is not None
    dataset.delete(pc.field("key") == 11)
    dataset.delete((pc.field("run") == 1) & (pc.field("key") < 5))
    wanted = [*range(105, 111), *range(112, 140)]
    assert find(tables, range(40), 1) == wanted
    dataset = tables.open("t")
    assert dataset is not None
    dataset.optimize.compact_files()
    assert find(tables, range(40), 1) == wanted


WIDER = pa.schema([*SCHEMA, pa.field("task", pa.string())])


def rows(keys: range, schema: pa.Schema) -> pa.Table:
    task = {"task": [f"t{key}" for key in keys]} if schema == WIDER else {}
    return pa.table({"key": list(keys), "run": [1] * len(keys), "n": list(keys), **task}, schema)


def tasks(tables: Tables, *keys: int) -> list[tuple[int, str | None]]:
    found = tables.find("t", WIDER, ["n", "task"], {"key": np.array(keys, np.int64)})
    assert found.schema == pa.schema([WIDER.field("n"), WIDER.field("task")])
    return sorted(zip(*(found.column(name).to_pylist() for name in ("n", "task")), strict=True))


@pytest.mark.parametrize("few", [0, 1_000], ids=["by a pass", "by filter"])
def test_a_table_of_an_earlier_release_gets_the_columns_it_lacks(home: Home, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """By its first writer and without a byte of data; readers see nulls before and after, and write nothing."""
    monkeypatch.setattr("store.rows.FEW", few)
    tables = home.tables
    old = tables.mark("t", SCHEMA)
    tables.append("t", SCHEMA, iter(rows(range(4), SCHEMA).to_batches()), old)
    index(tables, "t", ["key"])
    dataset, files = tables.open("t"), tables.files("t")
    assert dataset is not None
    assert tasks(tables, 1, 2) == [(1, None), (2, None)]
    assert [b.to_pydict() for b in tables.scan("t", ["task", "n"], schema=WIDER)] == [{"task": [None] * 4, "n": [0, 1, 2, 3]}]
    assert tables.files("t") == files
    with pytest.raises(CorruptError, match="task"):
        list(tables.scan("t", ["task", "n"]))
    # One who began before it is not told to begin again, and whoever looks at the same time adds it once.
    staged = tables.stage("t", rows(range(10, 12), SCHEMA), int(dataset.version))
    since = tables.mark("t", WIDER)
    monkeypatch.setattr(Tables, "open", first_stale(Tables.open, dataset))
    assert tables.mark("t", WIDER) == since
    tables.commit("t", staged)
    tables.append("t", WIDER, iter(rows(range(20, 22), WIDER).to_batches()), since)
    added = set(tables.files("t")) - set(files)
    assert sum(path.startswith("data/") for path in added) == 2
    wanted = [(1, None), (10, None), (20, "t20"), (21, "t21")]
    assert tasks(tables, 1, 10, 20, 21) == wanted
    # Erasing, merging files and indexing go on as ever; a fence still refuses who began before it.
    since = tables.mark("t", WIDER)
    assert purge(tables, "t", pc.field("key") == 21) == 1
    with pytest.raises(ConflictError):
        tables.append("t", WIDER, iter(rows(range(30, 31), WIDER).to_batches()), since)
    compact(tables, "t")
    index(tables, "t", ["key"])
    assert tasks(tables, 1, 10, 20, 21) == wanted[:-1]


def first_stale(opened: Any, stale: lance.LanceDataset) -> Any:
    """``Tables.open`` that gives an old state of the table once: what a writer sees whose rival comes between."""
    given: list[bool] = []

    def look(self: Tables, name: str) -> Any:
        if not given:
            given.append(True)
            return stale
        return opened(self, name)

    return look


def test_what_maintenance_replaces_is_read_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.rows.FEW", 0)
    tables = home.tables
    append(tables, range(5), 1)
    real, failed = Tables.open, list[int]()

    class Gone:
        version = 0

        def scanner(self, **_: object) -> None:
            raise OSError("Not found: data/x.lance")

    def stale(self: Tables, name: str) -> object:
        if not failed:
            failed.append(1)
            return Gone()
        return real(self, name)

    monkeypatch.setattr(Tables, "open", stale)
    assert find(tables, range(5), 1) == [100, 101, 102, 103, 104]


def test_only_fragments_within_are_looked_at(home: Home) -> None:
    """The same rows, with an index that knows some fragments, with none, after a compaction, and where there is nothing."""
    tables = home.tables
    assert list(tables.scan("t", ["n"], within=pc.field("run") == 1)) == []
    for run in (1, 2):
        append(tables, range(4), run)
    wanted = [201, 202]
    for step in range(4):
        dataset = tables.open("t")
        assert dataset is not None
        if step == 1:
            dataset.create_scalar_index("run", "BTREE")
        elif step == 2:
            append(tables, range(4), 3)
        elif step == 3:
            dataset.optimize.compact_files()
        dataset = tables.open("t")
        assert dataset is not None
        assert len(fragments(dataset, pc.field("run") == 2)) == 1 < len(dataset.get_fragments())
        few = (pc.field("run") == 2) & (pc.field("key") > 0) & (pc.field("key") < 3)
        found = pa.Table.from_batches(tables.scan("t", ["n"], filter=few, within=pc.field("run") == 2))
        assert found.column("n").to_pylist() == wanted
    assert list(tables.scan("t", ["n"], within=pc.field("run") == 9)) == []


def test_lists_of_vectors_lie_in_plain_files(home: Home) -> None:
    lists = pa.schema([pa.field("key", pa.int64()), pa.field("items", pa.list_(pa.float32()))])
    assert home.tables.ensure("wide", lists).data_storage_version == "2.0"
    assert home.tables.ensure("t", SCHEMA).data_storage_version != "2.0"
