"""Fragments are passed by only where no row of the range can be."""

from typing import Any

import lance
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest import ingest
from pipelines.sources.population import PopulationSource
from schemas.config import Config
from store.events import EVENTS_TABLE, EventLog
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
        return [fragment.count_rows() for fragment in zones.overlapping(dataset, "key", low, high) or []]

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


def test_an_index_knows_better(home: Home) -> None:
    append(home, [1, 2])
    dataset = home.tables.open("t")
    assert dataset is not None
    dataset.create_scalar_index("key", "BTREE")
    dataset = home.tables.open("t")
    assert dataset is not None
    zones = Zones()
    assert zones.overlapping(dataset, "key", 1, 1) is None
    assert zones.held == {}


def test_a_shard_of_a_first_load_reads_the_fragments_of_its_users(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingests leave events in the order of users, however they came."""
    write = lance.fragment.write_fragments
    monkeypatch.setattr(lance.fragment, "write_fragments", lambda *args, **options: write(*args, **options, max_rows_per_file=50))
    ingest(home, PopulationSource(40, 100, 3, texts=40), historical=True)
    log, every = EventLog(home), pl.concat(EventLog(home).scan(["user_key"], after=0, until=1))["user_key"]
    looked: list[int] = []
    real = Zones.overlapping

    def watched(*args: Any) -> Any:
        looked.append(len(found := real(*args) or []))
        return found

    monkeypatch.setattr(Zones, "overlapping", watched)
    for key in every.unique():
        found = log.current(["user_key"], after=0, until=1, low=key, high=key)["user_key"]
        assert found.to_list() == [key] * (every == key).sum()
    dataset = home.tables.open(EVENTS_TABLE)
    assert dataset is not None
    fragments = len(dataset.get_fragments())
    assert fragments >= 6
    # Each user's events lie side by side: in one fragment, or over the edge of the next.
    assert max(looked) < fragments / 2
    assert sum(looked) <= every.n_unique() + fragments + (every.len() // 50)
