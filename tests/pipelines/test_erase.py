"""Erasure: the same proof finds a user before and not after; everybody else's states are what they were, bit for bit."""

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.erase import Erasure, lift
from pipelines.refresh import Refresh
from pipelines.subjects import Subjects
from schemas.errors import ConflictError, NotFoundError
from schemas.keys import user_key
from schemas.records import IngestRecord, VersionRecord
from store.denylist import USER_REASON
from store.events import EventLog
from store.home import Home
from store.models import Models
from store.proof import prove
from store.purge import purge
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


def test_journals_name_them_no_more(home: Home, put: Put, night: Night, tmp_path: Path) -> None:
    """By id, or by key, as messages of failed shards do; what is said of others stays."""
    fill(home, put, night, history(4, 3), 1)
    journals, ids = tmp_path / "journals", ("person-0001", "person-0002")
    journals.mkdir()
    (journals / "a.log").write_text("".join(f"{user} failed, first at user key {user_key(user)}\n" for user in ids))
    needles = Erasure(home, [ids[0]]).subjects.needles([])
    assert [hit for hit in prove(home, needles, (journals,)).hits if "a.log" in hit]
    assert Erasure(home, [ids[0]], journals=(journals,)).erase("asked for").proof.hits == ()
    one, other = (journals / "a.log").read_text().splitlines()
    assert ids[0] not in one
    assert str(user_key(ids[0])) not in one
    assert other == f"{ids[1]} failed, first at user key {user_key(ids[1])}"


def test_nobody_of_that_name(home: Home, put: Put) -> None:
    put(home, history(2, 2))
    # A plan of everybody's events is none of theirs.
    Refresh(home).plan()
    with pytest.raises(NotFoundError, match="exact"):
        Erasure(home, ["person-000"]).erase("asked for")
    assert home.erasures.last() == 0


def test_a_single_event_goes_as_if_it_had_never_been(new_home: Callable[..., Home], put: Put, night: Night) -> None:
    """Every version's state of its user is computed anew; the others' stay bit for bit; the event stays out."""
    home, clean, user = new_home("home"), new_home("clean"), "person-0003"
    events = history()
    gone = next(e for e in events if e["user_id"] == user and e["text"].startswith("own"))
    versions = fill(home, put, night, events, 4)
    fill(clean, put, night, [e if e is not gone else {**e, "user_id": "somebody"} for e in events], 4)
    before = [states(home, version) for version in versions]
    erasure = Erasure(home, [], [(user, gone["event_id"])])
    needles = erasure.subjects.needles([])
    assert {"event_key", "text", "key", "slot_sum"} <= {hit.rsplit(": ", 1)[1] for hit in prove(home, needles).hits}
    receipt = erasure.erase("asked for")
    assert (receipt.users, len(receipt.events), receipt.proof.hits) == ((), 1, ())
    for version, old in zip(versions, before, strict=True):
        new, wanted = states(home, version), others(states(clean, clean.versions.get(version.number)), "somebody")  # type: ignore[arg-type]
        assert others(new, user).equals(others(old, user))
        assert counts(home, version) == (new.num_rows, sum(new.column("event_count").to_pylist()))
        columns = [name for name in new.schema.names if name not in ("run", "slot_sum", "slot_mass")]
        assert new.select(columns).equals(wanted.select(columns))
        for name in ("slot_sum", "slot_mass"):
            a, b = (np.array(t.column(name).to_pylist()) for t in (new, wanted))
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    again = put(home, events, name="again.jsonl")
    assert (again.duplicate, again.rejected, again.accepted) == (len(events) - 1, 1, 0)
    assert lift(home, [], [(user, gone["event_id"])], "mistake").number == 2
    assert put(home, events, name="third.jsonl").accepted == 1


def test_many_users_under_ten_versions_in_one_pass(home: Home, put: Put, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many users, each table is purged once; one user's erasure leaves no growth behind."""
    events = history(60, 10)
    versions = fill(home, put, night, events, 10)
    held = size(home)
    Erasure(home, ["person-0007"]).erase("asked for")
    assert size(home) <= 1.1 * held
    before = [states(home, version) for version in versions]
    purged: list[str] = []
    monkeypatch.setattr("pipelines.erase.purge", lambda tables, name, *rest: (purged.append(name), purge(tables, name, *rest))[1])
    many = [f"person-{n:04}" for n in range(0, 40)] + [f"never-seen-{n}" for n in range(3_000)]
    receipt = Erasure(home, many).erase("asked for")
    assert len(purged) == len(set(purged)) == 4
    assert len(receipt.users) == len(set(receipt.users)) == len(many)
    for version, table in zip(versions, before, strict=True):
        assert states(home, version).equals(others(table, *many))
    assert size(home) < held
    put(home, [{**events[-1], "event_id": "new", "user_id": "person-0050"}], name="more.jsonl")
    new = night(home)
    assert new
    assert all(check.passed for check in new.checks)


@pytest.mark.parametrize(
    "moment",
    [
        "store.purge._rewrite",
        "store.purge._forget",
        "store.withdrawal.Withdrawal.affected",
        "pipelines.erase.prove",
        "store.records.Ledger.append",
    ],
)
def test_cut_off_anywhere_and_run_again(home: Home, put: Put, night: Night, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The exception stands for a kill: nothing of the erasure runs after it."""
    events, user = history(6, 6), "person-0003"
    versions = fill(home, put, night, events, 2)
    before = [states(home, version) for version in versions]
    needles = Erasure(home, [user]).subjects.needles([])
    calls = []

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if moment.endswith("affected"):
        # Its third call is the one after the tables are done.
        real = Erasure(home, [user]).withdrawal.affected
        with monkeypatch.context() as patch:
            patch.setattr(moment, lambda self: die() if len(calls) == 2 else (calls.append(1), real())[1])
            with pytest.raises(KeyboardInterrupt):
                Erasure(home, [user]).erase("asked for")
    else:
        with monkeypatch.context() as patch:
            patch.setattr(moment, die)
            with pytest.raises(KeyboardInterrupt):
                Erasure(home, [user]).erase("asked for")
    assert home.receipts.last() == 0
    receipt = Erasure(Home(home.uri), [user]).erase("asked for")
    assert receipt.proof.hits == ()
    assert not +prove(home, needles).hits
    for version, table in zip(versions, before, strict=True):
        assert states(home, version).equals(others(table, user))
        after = states(home, version)
        assert counts(home, version) == (after.num_rows, sum(after.column("event_count").to_pylist()))


def test_a_refresh_that_runs_stops_and_plans_anew(home: Home, put: Put, night: Night) -> None:
    events, user = history(6, 12), "person-0003"
    fill(home, put, night, events[:30], 1)
    put(home, events[30:])
    slow = Refresh(home)
    folder, plan = slow.plan()  # type: ignore[misc]
    encoded, shards = slow.encode(plan), slow.update(folder, plan)
    needles = Erasure(home, [user]).subjects.needles([])
    assert Erasure(home, [user]).erase("asked for").proof.hits == ()
    with pytest.raises(ConflictError, match="mend"):
        slow.commit(folder, plan, encoded, shards, home.versions.get(1).created_at)  # type: ignore[union-attr]
    assert home.versions.last() == 1
    version = night(Home(home.uri))
    assert version
    found = states(home, version)
    assert user not in found.column("user_id").to_pylist()
    assert (version.users, version.events) == (found.num_rows, sum(found.column("event_count").to_pylist())) == (5, 60)
    assert not +prove(home, needles).hits


@pytest.mark.parametrize("moment", ["append", "append_rejects"])
def test_an_ingest_under_way_begins_again(home: Home, put: Put, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The erasure comes when the rows are compared and about to be written."""
    user = "person-0003"
    put(home, history(6, 2))
    rows = [*history(6, 6), {"user_id": user, "ts": "never", "text": "x"}]
    real, erased = getattr(EventLog, moment), []

    def late(self: EventLog, batches: Any, since: int) -> None:
        batches = list(batches)
        if not erased:
            erased.append(Erasure(Home(home.uri), [user]).erase("asked for"))
        real(self, iter(batches), since)

    monkeypatch.setattr(EventLog, moment, late)
    record = put(home, rows, name="late.jsonl")
    assert erased
    assert (record.read, record.rejected) == (37, 7)
    found = EventLog(home)
    assert pl.concat(found.scan(["user_id"], after=0, until=record.number)).filter(pl.col("user_id") == user).is_empty()
    assert user not in "".join(found.rejects(record.number)["raw"].drop_nulls())
    subjects = Subjects(home, [user], [])
    assert subjects.rows.is_empty()
    assert not +prove(home, subjects.needles([])).hits


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random(new_home: Callable[..., Home], put: Put, night: Night, spawn: Spawn, seed: int) -> None:
    home, user = new_home(), "person-0003"
    versions = fill(home, put, night, history(8, 8), 2)
    before = [states(home, version) for version in versions]
    needles = Erasure(home, [user]).subjects.needles([])
    process = spawn(
        "-c",
        f"import os, signal, threading, random\nfrom pipelines.erase import Erasure\nfrom store.home import Home\n"
        f"threading.Timer(random.Random({seed}).uniform(0.02, 0.6), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        f"Erasure(Home({home.uri!r}), [{user!r}]).erase('asked for')",
    )
    process.communicate()
    for version, table in zip(versions, before, strict=True):
        assert others(states(home, version), user).equals(others(table, user))
    assert Erasure(Home(home.uri), [user]).erase("asked for").proof.hits == ()
    assert not +prove(home, needles).hits
    for version, table in zip(versions, before, strict=True):
        assert states(home, version).equals(others(table, user))


def test_ids_stay_out_of_the_receipt_and_records(home: Home, put: Put, night: Night) -> None:
    fill(home, put, night, history(4, 3), 1)
    Erasure(home, ["person-0001"], [("person-0002", "e1")]).erase("asked for")
    for folder in ("erasures", "receipts"):
        for name in home.objects.names(folder):
            data = home.objects.get(f"{folder}/{name}") or b""
            assert json.loads(data)["number"] == 1
            assert b"person" not in data
            assert b'"e1"' not in data
