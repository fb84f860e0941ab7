"""A night against a full rebuild, embeddings cached, each in a process of its own.

``python -m benchmarks.night --users N --events-per-user M --new-fraction F --output json``: ``night_seconds``, ``rebuild_seconds``,
``ratio`` (night / rebuild) and ``peak_bytes`` (the larger of the two processes' peaks). A night is everything from the start of the
process: imports, reading the new events from a Parquet file, validation, duplicate check, look-ups, states, checks, promotion, a delta
bundle. A rebuild is the same without ingest, with a full bundle. The scheduler (Prefect) is left out of both. Texts' vectors are random, in
the cache beforehand; the aggregator is trained for a few steps only. Before the night, ``maintain`` compacts and indexes, as a home's
operator does once a week (``maintain``, not part of either).
``cpu_ratio`` is that of processor seconds, which other work on the machine hardly touches; ``page`` is the night's report, in a process
of its own, whose imports are not in its ``seconds``.
"""

# ruff: noqa: E402
from pipelines.memory import collect_seldom

# As the command line does, before anything large is imported.
collect_seldom()

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from benchmarks.memory import peak
from encoders.text import TextEncoder
from pipelines.checks import complaint
from pipelines.ingest import ingest
from pipelines.keys import text_key
from pipelines.publish import publish
from pipelines.refresh import Refresh
from pipelines.sources.population import PopulationSource
from pipelines.sources.table import TableSource
from schemas.config import BundleConfig, Config, TrainConfig
from store.embeddings import Embeddings
from store.home import Home
from store.lease import lease
from store.maintenance import maintain
from store.versions import PRODUCTION, current, promote, resolve

DAYS = 100


def run(
    users: Annotated[int, typer.Option(help="Users.")] = 100_000,
    events_per_user: Annotated[int, typer.Option(help="Events a user has before the night, on average.")] = 20,
    new_fraction: Annotated[float, typer.Option(help="Events of the night, as a share of those before.")] = 0.01,
    texts: Annotated[int, typer.Option(help="Distinct texts.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    keep: Annotated[str, typer.Option(help="Keep the home in this directory.")] = "",
    child: Annotated[str, typer.Option(hidden=True)] = "",
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    if child:
        named = {"rebuild": lambda home: _refresh(home, full=True), "page": _page, "maintain": _maintain}
        told = named[child](Home(keep)) if child in named else _night(child, keep)
        print(json.dumps({**told, "peak": peak()}))
        return
    place = Path(keep or tempfile.mkdtemp(prefix="tapstate-night-"))
    try:
        home, _ = Home.create(str(place / "home"), Config(seed=seed, bundle=BundleConfig(layers=8)))
        past = PopulationSource(users, users * events_per_user // DAYS, DAYS, texts=texts, seed=seed)
        new = PopulationSource(users, int(users * events_per_user * new_fraction), DAYS, DAYS, DAYS + 1, texts=texts, seed=seed)
        started = time.perf_counter()
        record, _ = ingest(home, past, historical=True)
        ingested = time.perf_counter() - started
        _cache(home, past, seed)
        # Here, not above: what it imports would count in every night.
        from pipelines.fit import fit

        fit(home, home.config.model_copy(update={"train": TrainConfig(steps=2, llm_steps=2, max_examples=1_000)}))
        file = place / "night.parquet"
        next(new.batches()).rows.drop("line").write_parquet(file)
        first = _child("rebuild", home.uri)
        upkeep = _child("maintain", home.uri)
        night = _child(str(file), home.uri)
        page = _child("page", home.uri)
        rebuild = _child("rebuild", home.uri)
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
    result = {
        "night_seconds": night["wall"],
        "rebuild_seconds": rebuild["wall"],
        "ratio": round(night["wall"] / rebuild["wall"], 4),
        "cpu_ratio": round(night["cpu"] / rebuild["cpu"], 4),
        "peak_bytes": max(night["peak"], rebuild["peak"]),
        "night_peak_bytes": night["peak"],
        "rebuild_peak_bytes": rebuild["peak"],
        "events": record.accepted,
        "ingest_seconds": round(ingested, 1),
        "first": first,
        "maintain": upkeep,
        "night": night,
        "page": page,
        "rebuild": rebuild,
    }
    print(json.dumps(result))


def _child(what: str, home: str) -> dict[str, Any]:
    # What came before is on the disk, so that nobody waits for another's writes.
    os.sync()
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.night", "--child", what, "--keep", home]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{what} failed")
    told = json.loads(said.splitlines()[-1])
    wall, cpu = round(time.perf_counter() - started, 2), round(usage.ru_utime + usage.ru_stime, 2)
    done = {"wall": wall, "cpu": cpu, **told}
    print(json.dumps({what: done}), file=sys.stderr)
    return done


def _night(file: str, place: str) -> dict[str, Any]:
    home, started = Home(place), time.perf_counter()
    record, _ = ingest(home, TableSource([file]))
    seconds = time.perf_counter() - started
    return {"accepted": record.accepted, "duplicate": record.duplicate, "ingest": round(seconds, 2), **_refresh(home)}


def _refresh(home: Home, full: bool = False) -> dict[str, Any]:
    refresh, began, marks = Refresh(home, full=full), datetime.now(UTC), [time.perf_counter()]
    planned = refresh.plan()
    assert planned
    folder, plan = planned
    marks.append(time.perf_counter())
    encoded = refresh.encode(plan)
    marks.append(time.perf_counter())
    shards = refresh.update(folder, plan)
    marks.append(time.perf_counter())
    version = refresh.commit(folder, plan, encoded, shards, began)
    marks.append(time.perf_counter())
    assert not complaint(version.checks), version.checks
    promote(home, version.number, expected=current(home, PRODUCTION), reason="benchmark")
    _, manifest = publish(home, version, refresh.encoder)
    marks.append(time.perf_counter())
    stages = {name: round(b - a, 2) for name, a, b in zip(("plan", "encode", "update", "commit", "bundle"), marks, marks[1:], strict=False)}
    changed = {
        "users_changed": version.users_changed,
        "events_new": version.events_new,
        "bundle_users": sum(f["users"] for f in manifest["states"]["files"]),
    }
    return {**stages, "shards": len(plan.shards), **changed}


def _maintain(home: Home) -> dict[str, Any]:
    with lease(home, "maintain", "benchmark"):
        return {"actions": [action.what for action, _ in maintain(home)]}


def _page(home: Home) -> dict[str, Any]:
    """The night's report, from nothing; in a refresh, the comparison is there already."""
    from pipelines.report import write_report

    started = time.perf_counter()
    path, report = write_report(home, resolve(home))
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "bytes": Path(path).stat().st_size,
        "sample": report.sample.users,
        "moved": report.drift[0].moved,
    }


def _cache(home: Home, source: PopulationSource, seed: int) -> None:
    """Random unit vectors for every text and target there can be."""
    encoder = TextEncoder(home.config.encoder)
    cache, rng = Embeddings(home, encoder.fingerprint, encoder.dim), np.random.default_rng(seed)
    every = pl.DataFrame({"text": pl.concat([pl.Series(source.wordings()), pl.Series(source.targets())])})
    keys = every.select(key=text_key(pl.col("text")))["key"].unique().sort().to_numpy()
    for at in range(0, len(keys), 65_536):
        part = keys[at : at + 65_536]
        vectors = rng.standard_normal((len(part), encoder.dim), np.float32)
        cache.append(part, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16), cache.mark())


if __name__ == "__main__":
    typer.run(run)
