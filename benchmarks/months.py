"""Twelve nightly months of real commits against one rebuild, and against another order of arrival.

``python -m benchmarks.months --data DIR [--start 2024-06] [--months 12] --output json`` with ``DIR/commits_git.jsonl.gz``.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.table import TableSource
from schemas.config import Config
from schemas.records import VersionRecord
from schemas.states import StateBatch
from store.home import Home
from store.models import Models
from store.states import States

MAPPING = {"user_id": "user", "event_id": "sha", "ts": "ts", "known_at": "commit_ts", "text": "subject", "target": "top_dir"}


def run(
    data: Annotated[Path, typer.Option(help="Directory with commits_git.jsonl.gz.")],
    start: Annotated[str, typer.Option(help="First month that is ingested on its own, YYYY-MM.")] = "2024-06",
    months: Annotated[int, typer.Option(help="Months.")] = 12,
    limit: Annotated[int, typer.Option(help="Only the last so many commits before and during; 0 for all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the shuffled order of arrival.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    source = data / "commits_git.jsonl.gz"
    if not source.is_file():
        sys.exit(f"{source} is missing: see the data's README")
    commits = pl.read_ndjson(source.read_bytes(), infer_schema_length=None).sort("commit_ts")
    month = pl.from_epoch("commit_ts").dt.strftime("%Y-%m")
    commits = commits.with_columns(month=month)
    wanted = sorted(m for m in commits["month"].unique().to_list() if m >= start)[:months]
    commits = commits.filter(pl.col("month") <= wanted[-1])
    if limit:
        commits = commits.tail(limit)
    parts = [commits.filter(pl.col("month") < wanted[0]), *(commits.filter(pl.col("month") == m) for m in wanted)]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        nightly, nights = _nights(work / "nightly", parts)
        rebuilt = _refresh(nightly, full=True)
        shuffled = commits.sample(fraction=1.0, shuffle=True, seed=seed)
        size = -(-len(shuffled) // len(parts))
        other, _ = _nights(work / "shuffled", [shuffled.slice(i * size, size) for i in range(len(parts))])
        result = {
            "commits": len(commits),
            "nights": nights,
            "incremental_against_rebuild": _difference(nightly, nights[-1]["version"], nightly, rebuilt.number),
            "shuffled_arrival_against_rebuild": _difference(other, other.versions.last(), nightly, rebuilt.number),
        }
    print(json.dumps(result))


def _nights(place: Path, parts: list[pl.DataFrame]) -> tuple[Home, list[dict[str, Any]]]:
    home, _ = Home.create(str(place), Config())
    nights = []
    for index, part in enumerate(parts):
        file = place / f"part-{index}.jsonl"
        part.write_ndjson(file)
        record, _ = ingest(home, TableSource([str(file)], MAPPING, {}))
        version = _refresh(home)
        nights.append(
            {
                "version": version.number,
                "accepted": record.accepted,
                "users_changed": version.users_changed,
                "texts_encoded": version.texts_encoded,
                "cache_hits": version.cache_hits,
                "seconds": version.seconds,
            }
        )
        print(json.dumps(nights[-1]), file=sys.stderr)
    return home, nights


def _refresh(home: Home, full: bool = False) -> VersionRecord:
    refresh, started = Refresh(home, full=full), datetime.now(UTC)
    planned = refresh.plan()
    assert planned
    folder, plan = planned
    encoded = refresh.encode(plan)
    return refresh.commit(folder, plan, encoded, refresh.update(folder, plan), started)


def _difference(one: Home, version: int, two: Home, other: int) -> dict[str, Any]:
    """Largest differences between two versions' states of the same users."""
    states = []
    for home, number in ((one, version), (two, other)):
        record = home.versions.get(number)
        assert record
        spec = Models(home).spec(record.aggregator)
        rows = States(home, record.aggregator, spec).read(record.runs)
        states.append((rows.column("user_id").to_pylist(), StateBatch.from_arrow(rows, spec)))
    (users, a), (others, b) = states
    same = users == others and bool((a.offsets == b.offsets).all())
    return {
        "same_users": users == others,
        "max_slot_difference": float(np.abs(a.columns["slot_sum"] - b.columns["slot_sum"]).max()),
        "same_window_members": same and bool((a.columns["window_key"] == b.columns["window_key"]).all()),
        "max_code_difference": int(np.abs(a.columns["window_code"].astype(int) - b.columns["window_code"].astype(int)).max())
        if same
        else None,
    }


if __name__ == "__main__":
    typer.run(run)
