"""The same plan through every engine gives the same states; a lost worker costs time, a poison shard itself alone."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster import DASK, DaskCluster
from benchmarks.engines import TWO, states
from pipelines.engines import new_engine
from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.population import PopulationSource
from pipelines.update import Updater
from schemas.config import FN_API, EngineConfig
from schemas.errors import ConfigError, EngineError, ShardError
from schemas.records import Shard, VersionRecord
from store.home import Home

Night = Callable[..., VersionRecord | None]
SOURCE = PopulationSource(users=300, daily=800, days=4, texts=64)


@pytest.fixture
def filled(new_home: Callable[..., Home]) -> Callable[[str], Home]:
    def make(name: str) -> Home:
        home = new_home(name)
        ingest(home, SOURCE, historical=True)
        return home

    return make


def refresh(home: Home, **engine: Any) -> VersionRecord:
    from datetime import UTC, datetime

    work = Refresh(home, engine=new_engine(EngineConfig(**engine)))
    folder, plan = work.plan()  # type: ignore[misc]
    encoded = work.encode(plan)
    return work.commit(folder, plan, encoded, work.update(folder, plan), datetime.now(UTC))


@pytest.mark.beam
@pytest.mark.parametrize("options", [(), pytest.param(TWO, marks=pytest.mark.slow)], ids=["in process", "two processes"])
def test_beam_gives_the_local_states(filled: Callable[[str], Home], options: tuple[str, ...]) -> None:
    here, there = filled("here"), filled("there")
    wanted, found = refresh(here), refresh(there, name="beam", runner=FN_API, options=options)
    assert states(there, found).equals(states(here, wanted))
    assert found.users == 300
    assert (found.events, found.texts_encoded, found.cache_hits) == (wanted.events, wanted.texts_encoded, wanted.cache_hits)
    assert found.texts_encoded == 64 + 32
    assert found.stages["update"].shards == wanted.stages["update"].shards > 30
    assert found.stages["update"].seconds > 0
    assert not list(Path(there.uri, "plans").rglob("*.json"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    pytest.importorskip("distributed")
    with DaskCluster(2) as running:
        yield running


@pytest.mark.beam
@pytest.mark.slow
def test_few_shards_are_spread_over_dask_workers(cluster: DaskCluster, tmp_path: Path) -> None:
    """By default that runner puts 128 elements into one task."""

    def told(number: int) -> None:
        time.sleep(0.5)
        (tmp_path / str(number)).write_text(str(os.getpid()))

    new_engine(EngineConfig(name="beam", runner=DASK, options=cluster.options)).each(told, range(6))
    assert sorted(path.name for path in tmp_path.iterdir()) == [*"012345"]
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 2


@pytest.mark.beam
@pytest.mark.slow
def test_a_killed_dask_worker_changes_nothing(filled: Callable[[str], Home], cluster: DaskCluster) -> None:
    here, there = filled("here"), filled("there")
    wanted = refresh(here)
    done: list[int] = []

    def kill() -> None:
        while not done:
            time.sleep(0.005)
            if count := len(list(Path(there.uri).glob("plans/*/update-*.json"))):
                cluster.workers[0].kill()
                done.append(count)

    killer = threading.Thread(target=kill)
    killer.start()
    found = refresh(there, name="beam", runner=DASK, options=cluster.options)
    killer.join()
    assert done[0] < found.stages["update"].shards
    assert cluster.workers[0].wait() != 0
    assert cluster.workers[1].poll() is None
    assert states(there, found).equals(states(here, wanted))


@pytest.mark.parametrize("engine", ["local", pytest.param("beam", marks=pytest.mark.beam)])
def test_a_poison_shard_is_named_and_the_others_stay(filled: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    home, clean = filled("home"), filled("clean")
    wanted = refresh(clean)
    real, tried = Updater.__call__, list[int]()

    def poisoned(self: Updater, shard: Shard) -> Any:
        tried.append(shard.index)
        if shard.index == 3 or (shard.index == 5 and tried.count(5) == 1):
            raise ValueError("row 17 is sour")
        return real(self, shard)

    monkeypatch.setattr(Updater, "__call__", poisoned)
    with pytest.raises(ShardError, match=r"1 of \d+ shards failed; shard 3: ValueError.*row 17 is sour"):
        refresh(home, name=engine)
    assert (tried.count(3), tried.count(5), tried.count(1)) == (3, 2, 1)
    (folder,) = Path(home.uri, "plans").iterdir()
    assert "row 17 is sour" in json.loads((folder / "update-3.failed").read_text())["trace"]
    assert home.versions.last() == 0
    monkeypatch.setattr(Updater, "__call__", real)
    found = refresh(home, name=engine)
    assert states(home, found).equals(states(clean, wanted))


def test_what_cannot_be_used_is_refused(filled: Callable[[str], Home]) -> None:
    with pytest.raises(ConfigError, match="takes no options"):
        new_engine(EngineConfig(options=("--x",)))


@pytest.mark.beam
def test_beam_refuses_what_nobody_reads() -> None:
    with pytest.raises(ConfigError, match="no usable Beam runner"):
        new_engine(EngineConfig(name="beam", runner="NoSuchRunner"))
    with pytest.raises(ConfigError, match="--direct_num_wokers=2"):
        new_engine(EngineConfig(name="beam", runner=FN_API, options=("--direct_num_wokers=2",)))


@pytest.mark.beam
@pytest.mark.slow
def test_a_cluster_that_is_not_there(filled: Callable[[str], Home]) -> None:
    home = filled("home")
    options = ("--dask_client_address=tcp://127.0.0.1:1", "--dask_connection_timeout=1")
    with pytest.raises(EngineError, match="the Beam pipeline stopped"):
        refresh(home, name="beam", runner=DASK, options=options)
    assert home.versions.last() == 0
