"""Looking rows up by many keys at once."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from store.home import Home
from store.places import fragments
from store.tables import Tables

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
    monkeypatch.setattr("store.tables.FEW", few)
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


def test_what_maintenance_replaces_is_read_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.tables.FEW", 0)
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
