"""Erasure: the same proof finds a user before and not after; everybody else's states are what they were, bit for bit."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.erase import Erasure, lift
from schemas.errors import NotFoundError
from schemas.records import IngestRecord, VersionRecord
from store.denylist import USER_REASON
from store.events import EventLog
from store.home import Home
from store.models import Models
from store.proof import prove
from store.states import States
from store.versions import counts

Put = Callable[..., IngestRecord]
Night = Callable[..., VersionRecord | None]
Spawn = Callable[..., subprocess.Popen[str]]
Event = dict[str, Any]
DAY = 86_400


def history(users: int = 12, each: int = 12, seed: int = 0) -> list[Event]:
    """Events with texts of one's own and shared ones, in order of time."""
    rng = random.Random(seed)
    events = [
        {
            "user_id": f"person-{user:04}",
            "event_id": f"e{number}",
            "ts": 1_700_000_000 + rng.randrange(365) * DAY,
            "text": rng.choice([f"own words of {user} {number}", f"shared words {number}"]),
            "target": rng.choice([None, "red", f"label {user}"]),
        }
        for user in range(users)
        for number in range(each)
    ]
    return sorted(events, key=lambda e: e["ts"])


def fill(home: Home, put: Put, night: Night, events: list[Event], versions: int) -> list[VersionRecord]:
    step = -(-len(events) // versions)
    made = []
    for start in range(0, len(events), step):
        put(
            home,
            [*events[start : start + step], {"user_id": "person-0003", "ts": "never", "text": f"broken {start}"}],
            name=f"{start}.jsonl",
        )
        made.append(night(home))
    return [version for version in made if version]


def states(home: Home, version: VersionRecord) -> pa.Table:
    return States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs)


def others(table: pa.Table, *users: str) -> pa.Table:
    return table.filter(~pc.field("user_id").isin(list(users)))


def size(home: Home) -> int:
    return sum(path.stat().st_size for path in Path(home.uri).rglob("*") if path.is_file())


def test_the_proof_finds_before_and_not_after(new_home: Callable[..., Home], put: Put, night: Night, place: str) -> None:
    home = new_home(place)
    events, user = history(), "person-0003"
    versions = fill(home, put, night, events, 4)
    before = [states(home, version) for version in versions]
    erasure = Erasure(home, [user])
    needles = erasure.subjects.needles([])
    assert min(map(len, (needles.ids, needles.texts, needles.vectors, needles.keys))) > 0
    found = prove(home, needles)
    wanted = {"user_id", "user_key", "event_key", "text", "target", "text_key", "vector", "key", "slot_sum", "raw", "raw bytes"}
    assert {hit.rsplit(": ", 1)[1] for hit in found.hits} >= wanted
    survey = erasure.survey()
    mine = [e for e in events if e["user_id"] == user]
    assert next(f.rows for f in survey if f.where == "table events") == len(mine)
    assert next(f.rows for f in survey if f.where == "table rejects") == 4
    receipt = Erasure(home, [user]).erase("asked for")
    assert receipt.proof.hits == ()
    assert receipt.proof.decoded > 4
    assert not +prove(home, needles).hits
    assert user not in receipt.model_dump_json()
    for version, table in zip(versions, before, strict=True):
        after = states(home, version)
        assert after.equals(others(table, user))
        assert counts(home, version) == (after.num_rows, sum(after.column("event_count").to_pylist()))
    again = put(home, [*mine, {"user_id": user, "ts": "never", "text": "x"}, events[0]], name="again.jsonl")
    assert (again.read, again.accepted, again.duplicate, again.rejected) == (len(mine) + 2, 0, 1, len(mine) + 1)
    kept = EventLog(home).rejects(home.ingests.last()).filter(pl.col("ingest") == again.run)
    assert set(kept["raw"]) == {None}
    assert kept["reason"].str.contains("erased").all()
    assert kept["reason"].to_list().count(USER_REASON) == len(mine)
    assert not +prove(home, needles).hits
    put(home, [{"user_id": "person-0004", "event_id": "new", "ts": 1_800_000_000 - DAY * 300, "text": "more"}], name="more.jsonl")
    new = night(home)
    assert new
    assert (new.users, new.events) == (states(home, new).num_rows, sum(states(home, new).column("event_count").to_pylist()))


def test_lifted_users_come_back(home: Home, put: Put, night: Night) -> None:
    events = history(4, 5)
    fill(home, put, night, events, 1)
    Erasure(home, ["person-0001"]).erase("asked for")
    with pytest.raises(NotFoundError, match="not kept out: user-"):
        lift(home, ["person-0002"], [], "mistake")
    lift(home, ["person-0001"], [], "came back")
    record = put(home, events)
    assert (record.accepted, record.rejected) == (5, 0)
    version = night(home)
    assert version
    assert states(home, version).num_rows == 4


def test_nobody_of_that_name(home: Home, put: Put) -> None:
    put(home, history(2, 2))
    with pytest.raises(NotFoundError, match="exact"):
        Erasure(home, ["person-000"]).erase("asked for")
    assert home.erasures.last() == 0
