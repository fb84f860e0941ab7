"""Looking rows up by many keys at once."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from store.home import Home
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
    monkeypatch.setattr("store.tables.PASS_ROWS", 7)
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
