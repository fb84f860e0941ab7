"""Fragments are passed by only where no row of the range can be."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.config import Config
from store.home import Home
from store.zones import Zones

SCHEMA = pa.schema([pa.field("key", pa.int64())])
KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6)


def append(home: Home, keys: list[int]) -> None:
    table = pa.table({"key": pa.array(keys, pa.int64())})
    home.tables.append("t", SCHEMA, iter(table.to_batches()), home.tables.mark("t", SCHEMA))


@settings(max_examples=10, deadline=None)
@given(parts=st.lists(KEYS, min_size=1, max_size=4), edges=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)))
def test_a_span_finds_what_the_filter_finds(
    parts: list[list[int]], edges: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home, _ = Home.create(str(tmp_path_factory.mktemp("spans") / "home"), Config())
    low, high = min(edges), max(edges)
    for part in parts:
        append(home, part)
    filter = (pc.field("key") >= low) & (pc.field("key") <= high)
    found = [key for b in home.tables.scan("t", ["key"], filter=filter, span=("key", low, high)) for key in b.column("key").to_pylist()]
    assert sorted(found) == sorted(key for part in parts for key in part if low <= key <= high)


def test_fragments_are_known_once_and_new_and_compacted_ones_anew(home: Home) -> None:
    zones = Zones()
    for keys in ([1, 2, 3], [4, 5], [6]):
        append(home, keys)

    def found(low: int, high: int) -> list[int]:
        dataset = home.tables.open("t")
        assert dataset is not None
        return [fragment.count_rows() for fragment in zones.overlapping(dataset, "key", low, high)]

    assert found(3, 4) == [3, 2]
    assert found(7, 9) == []
    assert len(zones.held) == 3
    append(home, [8])
    assert found(7, 9) == [1]
    dataset = home.tables.open("t")
    assert dataset is not None
    dataset.delete("key = 8")
    assert found(7, 9) == []
    dataset.delete("key = 1")
    assert found(1, 1) == [2], "a zone may be too wide, never too narrow"
    assert Zones().overlapping(dataset, "key", 1, 1) == []
    dataset.optimize.compact_files()
    assert found(5, 5) == [5]


def test_a_first_load_reads_one_fragment_a_shard(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users in order, a fragment each."""
    for key in range(4):
        append(home, [key] * 10)
    looked = []
    real = Zones.overlapping

    def watched(self: Zones, *args: object) -> list[object]:
        looked.append(len(found := real(self, *args)))  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(Zones, "overlapping", watched)
    found = list(home.tables.scan("t", ["key"], filter=pc.field("key") == 2, span=("key", 2, 2)))
    assert [key for batch in found for key in batch.column("key").to_pylist()] == [2] * 10
    assert looked == [1]
