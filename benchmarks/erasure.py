"""What an erasure takes: one user and many users under several versions, seconds, growth and proof.

``python -m benchmarks.erasure [--users 2000] [--versions 10] [--erased 1000] [--seed 0] --output json``
"""

import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from pipelines.erase import Erasure
from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.table import TableSource
from schemas.config import Config
from store.home import Home
from store.proof import prove

#: Texts that everybody uses; one event in twenty has words of its own.
SHARED, OWN = 2_000, 20


def run(
    users: Annotated[int, typer.Option(help="Users.")] = 2_000,
    each: Annotated[int, typer.Option(help="Events a user.")] = 20,
    versions: Annotated[int, typer.Option(help="Versions, each with its share of the events.")] = 10,
    erased: Annotated[int, typer.Option(help="Users of the second erasure.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Seed of the events.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    with tempfile.TemporaryDirectory() as directory:
        home, _ = Home.create(str(Path(directory) / "home"), Config(seed=seed))
        for night in range(versions):
            _night(home, Path(directory) / f"{night}.parquet", users, each, versions, seed + night)
        result = {
            "users": users,
            "events": home.versions.all()[-1].events,
            "versions": versions,
            "one": _erase(home, ["user-0000007"]),
            "many": _erase(home, [f"user-{n:07}" for n in range(100, 100 + erased)]),
        }
    print(json.dumps(result))


def _night(home: Home, file: Path, users: int, each: int, versions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = users * each // versions
    user = rng.integers(0, users, count)
    own = rng.integers(0, OWN, count) == 0
    text = np.where(
        own, np.char.add("words of user ", user.astype(str)), np.char.add("shared text ", rng.integers(0, SHARED, count).astype(str))
    )
    rows = {"user_id": [f"user-{n:07}" for n in user], "ts": 1_700_000_000 + rng.integers(0, 10**7, count), "text": text.tolist()}
    pl.DataFrame(rows).write_parquet(file)
    ingest(home, TableSource([str(file)]), historical=True)
    refresh, started = Refresh(home), datetime.now(UTC)
    planned = refresh.plan()
    assert planned
    folder, plan = planned
    encoded = refresh.encode(plan)
    refresh.commit(folder, plan, encoded, refresh.update(folder, plan), started)


def _erase(home: Home, users: list[str]) -> dict[str, Any]:
    before, erasure = _size(home), Erasure(home, users)
    started = time.monotonic()
    found = prove(home, erasure.subjects.needles([]))
    searched = time.monotonic() - started
    receipt = erasure.erase("benchmark")
    return {
        "users": len(users),
        "hits_before": sum(found.hits.values()),
        "hits_after": len(receipt.proof.hits),
        "removed": {place.where: place.rows for place in receipt.removed},
        "seconds": receipt.seconds,
        "seconds_of_one_search": round(searched, 3),
        "files": receipt.proof.files,
        "needles": receipt.proof.needles,
        "bytes_before": before,
        "bytes_after": _size(home),
    }


def _size(home: Home) -> int:
    return sum(path.stat().st_size for path in Path(home.uri).rglob("*") if path.is_file())


if __name__ == "__main__":
    typer.run(run)
