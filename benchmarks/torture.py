"""Eight processes hammer one home and are killed at random; then it is judged against a clean rebuild.

``python -m benchmarks.torture --seconds S [--seed N] [--keep DIR] --output json`` prints one JSON object:

- ``kills``: processes killed with SIGKILL;
- ``duplicates``: events or states that are there twice; ``lost``: events that were ingested and are not there (or are other ones);
- ``half_versions``: reads of a version that were not what its record says, or not what an earlier read of it was;
- ``equal_to_rebuild``: the last version equals one built at once from the same events: slots to 1e-5, windows with the same members.

Exit code 1 if any of them is not as it must be.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from itertools import zip_longest
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import pyarrow as pa
import typer

from benchmarks import hammer
from benchmarks.hammer import Arena
from benchmarks.tiny import tiny_encoder
from pipelines.ingest import ingest
from pipelines.sources.table import TableSource
from schemas.config import Config, EncoderConfig, MaintainConfig, RefreshConfig, TideConfig
from schemas.records import VersionRecord
from schemas.states import StateBatch
from store.events import EventLog
from store.home import Home
from store.maintenance import survey
from store.models import Models
from store.states import States

#: Largest difference of a slot's element that counts as equal.
TOLERANCE = 1e-5


def run(
    seconds: Annotated[float, typer.Option(help="How long to hammer.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the events and of the kills; what is hit when depends on the machine too.")] = 0,
    pause: Annotated[float, typer.Option(help="Mean seconds between two kills.")] = 0.5,
    keep: Annotated[str, typer.Option(help="Leave everything in this directory.")] = "",
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    work = Path(keep) if keep else Path(tempfile.mkdtemp(prefix="tapstate-torture-"))
    (work / "seen").mkdir(parents=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    config = Config(
        encoder=EncoderConfig(model=str(tiny_encoder(work / "encoder")), max_tokens=32),
        tide=TideConfig(slots=4, dim=16, window=6, hidden=16),
        refresh=RefreshConfig(shard_events=64),
        maintain=MaintainConfig(keep_versions=3, keep_days=0, grace_minutes=0),
    )
    arena = Arena(Home.create(str(work / "home"), config)[0].uri, work, seed)
    kills = _hammer(arena, seconds, pause, random.Random(seed))
    result = _judge(arena, config, kills)
    print(json.dumps(result, default=str))
    fine = result["equal_to_rebuild"] and not any(result[name] for name in ("duplicates", "lost", "half_versions", "errors", "left_over"))
    if not keep:
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(0 if fine else 1)


def _hammer(arena: Arena, seconds: float, pause: float, rng: random.Random) -> Counter[str]:
    """Start the roles, kill and start again, stop; how often each was killed."""
    # Importing torch takes seconds of CPU; a server that has imported and never used it forks each process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.hammer"])

    def start(role: str) -> BaseProcess:
        process = context.Process(target=hammer.work, args=(arena, role), name=role)
        process.start()
        return process

    running = [start(role) for role in hammer.roles()]
    kills: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.expovariate(1 / pause))
        place = rng.randrange(len(running))
        victim = running[place]
        assert victim.pid
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        kills[victim.name] += 1
        running[place] = start(victim.name)
    (arena.work / "stop").touch()
    for process in running:
        process.join(120)
        if process.is_alive():
            arena.note("errors", role=process.name, what="did not stop")
            process.kill()
    return kills


def _finish(arena: Arena) -> tuple[VersionRecord, list[int], set[str]]:
    """What was begun is done to its end, undisturbed: files, erasures, a night, maintenance."""
    counts = []
    for source in range(hammer.SOURCES):
        hammer.ingesting(arena, source)
        counts.append(sum(entry["did"] == "done" for entry in arena.journal(f"ingest{source}")))
    if hammer.can_erase():
        while True:
            entries = arena.journal("erase")
            users, done = ([e["user"] for e in entries if e["did"] == did] for did in ("started", "done"))
            if set(users) == set(done):
                break
            hammer.erasing(arena)
    version = hammer.refreshing(arena)
    assert version
    hammer.maintaining(arena)
    return version, counts, {entry["user"] for entry in arena.journal("erase") if entry["did"] == "done"}


def _judge(arena: Arena, config: Config, kills: Counter[str]) -> dict[str, Any]:
    version, counts, erased = _finish(arena)
    home = Home(arena.home)
    log, last = EventLog(home), home.ingests.last()
    columns = ["user_id", "event_id", "revision", "text", "op"]
    events = pl.concat(list(log.scan(columns, after=0, until=last)))
    now = {(u, e): t for u, e, t in log.current(["user_id", "event_id", "text"], after=0, until=last).iter_rows()}
    expected = {key: row["text"] for key, row in hammer.wanted(arena.seed, counts, erased).items()}
    states = home.tables.read(
        States(home, version.aggregator, Models(home).spec(version.aggregator)).name,
        pa.schema([("user_id", pa.string()), ("run", pa.int64())]),
        ["user_id", "run"],
    )
    twice = len(events) - len(events.unique(["user_id", "event_id", "revision"]))
    twice += states.num_rows - states.group_by(["user_id", "run"]).aggregate([]).num_rows
    reads, errors = arena.journal("read"), arena.journal("errors")
    difference = _difference(arena, config, home, version, counts, erased)
    return {
        "kills": sum(kills.values()),
        "duplicates": twice,
        "lost": sum(now.get(key) != text for key, text in expected.items()) + sum(key not in expected for key in now),
        "half_versions": sum(entry["did"] == "half" for entry in reads),
        "equal_to_rebuild": difference <= TOLERANCE,
        "max_abs_difference": difference,
        "errors": len(errors),
        "left_over": len(survey(Home(arena.home))),
        "killed": dict(kills),
        "ingests": last,
        "events": len(now),
        "versions": home.versions.last(),
        "reads": len(reads),
        "reads_retried": len(arena.journal("retried")),
        "refused": len(arena.journal("refused")),
        "erased": len(erased),
        "maintenance": dict(Counter(entry["did"] for entry in arena.journal("maintain"))),
        "seed": arena.seed,
        "messages": [entry["what"] for entry in errors][:5] + [e["why"] for e in reads if e["did"] == "half"][:5],
        "left": [f"{action.what}: {action.why}" for action in survey(Home(arena.home))][:5],
    }


def _difference(arena: Arena, config: Config, home: Home, version: VersionRecord, counts: list[int], erased: set[str]) -> float:
    """Largest difference between slots of the hammered home and of a clean one; infinite if anything else differs."""
    clean, _ = Home.create(str(arena.work / "clean"), config)
    rounds = zip_longest(*([(source, number) for number in range(count)] for source, count in enumerate(counts)))
    for number, pairs in enumerate(rounds):
        path = arena.work / f"clean-{number}.jsonl"
        found = [row for pair in pairs if pair for row in hammer.rows(arena.seed, *pair) if row["user_id"] not in erased]
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        ingest(clean, TableSource([str(path)]), historical=True)
    other = hammer.refreshing(Arena(clean.uri, arena.work, arena.seed), full=True)
    assert other
    spec = Models(home).spec(version.aggregator)
    one, two = (States(h, v.aggregator, spec).read(v.runs) for h, v in ((home, version), (clean, other)))
    keys = ["user_id", "user_key", "event_count", "first_ts", "last_ts"]
    if version.aggregator != other.aggregator or not one.select(keys).equals(two.select(keys)):
        return float("inf")
    a, b = StateBatch.from_arrow(one, spec), StateBatch.from_arrow(two, spec)
    same = all(np.array_equal(a.columns[name], b.columns[name]) for name in ("window_key", "window_time", "t_ref"))
    if not same or not np.array_equal(a.offsets, b.offsets):
        return float("inf")
    return float(np.abs(a.columns["slot_sum"] - b.columns["slot_sum"]).max())


if __name__ == "__main__":
    typer.run(run)
