"""One plan through every engine: the same states, bit for bit, and the seconds each took.

``python -m benchmarks.engines --output json``: ``equal`` and ``engines`` (seconds of the encode and update stages, the start of workers
included): ``local``, ``fn_api`` (Beam in this process), ``fn_api_2`` (Beam, two processes), ``dask`` (Beam on a Dask cluster: a scheduler
and two workers, processes of their own). ``stages`` holds the seconds the shards themselves took, by engine.
"""

import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

# One thread a worker, so that two workers are two cores: of torch and Arrow, of tokenizers, of Polars, of Lance.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "LANCE_CPU_THREADS"), "1"))

import typer

from benchmarks.cluster import DASK, DaskCluster
from pipelines.engines import Engine, new_engine
from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.population import PopulationSource
from schemas.config import FN_API, Config, EngineConfig, RefreshConfig
from schemas.records import VersionRecord
from store.home import Home
from store.models import Models
from store.states import States

DAYS = 10
TWO = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


def run(
    users: Annotated[int, typer.Option(help="Users.")] = 4_000,
    events_per_user: Annotated[int, typer.Option(help="Events a user has, on average.")] = 20,
    texts: Annotated[int, typer.Option(help="Distinct texts.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    source = PopulationSource(users, events_per_user * users // DAYS, DAYS, texts=texts, seed=seed)
    seconds, stages, tables = dict[str, float](), dict[str, Any](), list[Any]()
    with tempfile.TemporaryDirectory() as directory, DaskCluster(2) as cluster:
        engines = {
            "local": new_engine(EngineConfig()),
            "fn_api": new_engine(EngineConfig(name="beam", runner=FN_API)),
            "fn_api_2": new_engine(EngineConfig(name="beam", runner=FN_API, options=TWO)),
            "dask": new_engine(EngineConfig(name="beam", runner=DASK, options=cluster.options)),
        }
        for name, engine in engines.items():
            home, _ = Home.create(str(Path(directory) / name), Config(refresh=RefreshConfig(shard_events=8_192)))
            ingest(home, source, historical=True)
            version, seconds[name] = refresh(home, engine)
            stages[name] = {stage: figures.model_dump() for stage, figures in version.stages.items()}
            tables.append(states(home, version))
            print(f"{name}: {seconds[name]:.1f} s", file=sys.stderr)
    print(json.dumps({"equal": all(t.equals(tables[0]) for t in tables), "engines": seconds, "stages": stages}))


def refresh(home: Home, engine: Engine) -> tuple[VersionRecord, float]:
    """One refresh and the seconds of its encode and update stages."""
    work = Refresh(home, engine=engine)
    planned = work.plan()
    assert planned
    folder, plan = planned
    started = time.perf_counter()
    encoded = work.encode(plan)
    shards = work.update(folder, plan)
    seconds = time.perf_counter() - started
    return work.commit(folder, plan, encoded, shards, datetime.now(UTC)), round(seconds, 2)


def states(home: Home, version: VersionRecord) -> Any:
    """All states of a version, without the tag of the run that wrote them; NaN-free, so that equality is of bits."""
    return States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs).drop(["run"])


if __name__ == "__main__":
    typer.run(run)
