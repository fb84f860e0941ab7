"""Many nights equal one rebuild; killed, raced or quiet, a refresh ends in the same states."""

import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.checks import complaint
from pipelines.refresh import Refresh
from schemas.config import CheckConfig
from schemas.errors import ConflictError, NotFoundError
from schemas.records import IngestRecord, VersionRecord
from schemas.states import StateBatch
from store.comparison import View, compare
from store.home import Home
from store.models import Models
from store.purge import fence
from store.states import States
from store.versions import promote

Night = Callable[..., VersionRecord | None]
Put = Callable[..., IngestRecord]
Spawn = Callable[..., subprocess.Popen[str]]
Event = dict[str, Any]
DAY = 86_400
NIGHT = """
import os, signal, sys
from datetime import UTC, datetime
import pipelines.update as module
from pipelines.refresh import Refresh
from schemas.errors import ConflictError
from store.home import Home

def night(home):
    refresh = Refresh(Home(home))
    planned = refresh.plan()
    print("planned", flush=True)
    sys.stdin.readline()
    folder, plan = planned
    encoded = refresh.encode(plan)
    print(refresh.commit(folder, plan, encoded, refresh.update(folder, plan), datetime.now(UTC)).number)
"""


def history(users: int = 12, each: int = 12, seed: int = 0) -> list[Event]:
    """Events over a year, some at the same second, targets and values here and there, in order of time."""
    rng = random.Random(seed)
    events = [
        {
            "user_id": f"u{user}",
            "event_id": f"e{number}",
            "ts": 1_700_000_000 + rng.randrange(365) * DAY + rng.choice([0, 0, 3_600, 7_777]),
            "text": f"text {rng.randrange(40)}",
            "target": rng.choice([None, "red", "blue"]),
            "value": rng.choice([None, 1.0, -2.5]),
        }
        for user in range(users)
        for number in range(each)
    ]
    return sorted(events, key=lambda e: e["ts"])


def nights(home: Home, put: Put, night: Night, events: Sequence[Event], count: int) -> VersionRecord:
    """The events in ``count`` ingests, with a refresh after each."""
    step = -(-len(events) // count)
    for start in range(0, len(events), step):
        put(home, events[start : start + step])
        version = night(home)
    assert version
    return version


def table(home: Home, version: VersionRecord) -> pa.Table:
    return States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs)


def same_states(home: Home, version: VersionRecord, other: Home, wanted: VersionRecord) -> None:
    a, b = table(home, version), table(other, wanted)
    keys = ["user_id", "user_key", "event_count", "first_ts", "last_ts"]
    assert a.select(keys).equals(b.select(keys))
    assert (version.users, version.events) == (wanted.users, wanted.events) == (a.num_rows, sum(a.column("event_count").to_pylist()))
    spec = Models(home).spec(version.aggregator)
    x, y = StateBatch.from_arrow(a, spec), StateBatch.from_arrow(b, spec)
    np.testing.assert_array_equal(x.offsets, y.offsets)
    for name in ("window_key", "window_time", "window_code", "window_scale", "t_ref"):
        np.testing.assert_array_equal(x.columns[name], y.columns[name], err_msg=name)
    for name in ("slot_sum", "slot_mass"):
        np.testing.assert_allclose(x.columns[name], y.columns[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_many_nights_are_one_rebuild(new_home: Callable[..., Home], put: Put, night: Night) -> None:
    events = history()
    nightly, whole = new_home("nightly"), new_home("whole")
    version = nights(nightly, put, night, events, 24)
    put(whole, events)
    wanted = night(whole)
    assert wanted
    assert (version.number, version.parent, len(version.runs)) == (24, 23, 24)
    assert (version.users, version.events) == (12, 144)
    same_states(nightly, version, whole, wanted)
    rebuilt = night(nightly, full=True)
    assert rebuilt
    assert (rebuilt.parent, len(rebuilt.runs), rebuilt.users_changed) == (24, 1, 12)
    assert table(nightly, rebuilt).drop(["run"]).equals(table(whole, wanted).drop(["run"]))


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_of_arrival(new_home: Callable[..., Home], put: Put, night: Night, seed: int) -> None:
    events = history(seed=seed)
    shuffled = random.Random(seed).sample(events, len(events))
    late, whole = new_home("late"), new_home("whole", shard_events=10_000)
    version = nights(late, put, night, shuffled, 9)
    put(whole, events)
    wanted = night(whole)
    assert wanted
    same_states(late, version, whole, wanted)


def test_corrected_and_deleted_events(new_home: Callable[..., Home], put: Put, night: Night) -> None:
    """Users of corrected events are as if the last revision had always been there; a user without events is gone."""
    events = history(users=5)
    home, clean = new_home("home"), new_home("clean")
    nights(home, put, night, events, 3)
    fixed = [{**e, "text": "other words", "ts": e["ts"] + 5} for e in events if e["user_id"] == "u1"][:2]
    dropped = [e for e in events if e["user_id"] == "u2"][:3] + [e for e in events if e["user_id"] == "u3"]
    put(home, [*fixed, *({"user_id": e["user_id"], "event_id": e["event_id"], "op": "delete"} for e in dropped)])
    version = night(home)
    assert version
    assert (version.users, version.users_changed, version.events) == (4, 3, 60 - 3 - 12)
    ids = {(e["user_id"], e["event_id"]) for e in [*fixed, *dropped]}
    put(clean, [*fixed, *(e for e in events if (e["user_id"], e["event_id"]) not in ids)])
    wanted = night(clean)
    assert wanted
    same_states(home, version, clean, wanted)
    put(home, [{**events[0], "user_id": "u3", "event_id": "new"}])
    put(clean, [{**events[0], "user_id": "u3", "event_id": "new"}])
    back, wanted = night(home), night(clean)
    assert back
    assert wanted
    same_states(home, back, clean, wanted)


def test_shards_tell_what_a_comparison_of_both_versions_finds(new_home: Callable[..., Home], put: Put, night: Night) -> None:
    """New users, deleted ones, corrected and plain events, over several shards."""
    home = new_home("home", shard_events=64)
    events = history(users=30)
    put(home, events[:-60])
    first = night(home)
    gone = [{"user_id": "u3", "event_id": e["event_id"], "op": "delete"} for e in events if e["user_id"] == "u3"]
    new = [{**e, "user_id": f"new{n}"} for n, e in enumerate(events[:40])]
    put(home, [*events[-60:], *new, *gone, {**events[0], "text": "other words"}])
    refresh = Refresh(home)
    planned = refresh.plan()
    assert first
    assert planned
    folder, plan = planned
    assert len(plan.shards) > 1
    encoded = refresh.encode(plan)
    second = refresh.commit(folder, plan, encoded, refresh.update(folder, plan), datetime.now(UTC))
    told, read = refresh.drift, compare(View.of(home, first), View.of(home, second))
    assert told
    assert (told.appeared, told.vanished) == (40, 1)
    for name in ("appeared", "vanished", "rewritten", "moved", "movers", "growers", "panel"):
        assert getattr(told, name) == getattr(read, name), name
    np.testing.assert_array_equal(np.sort(told.shifts), np.sort(read.shifts))
    np.testing.assert_array_equal(told.after, read.after)


def test_a_fault_is_not_passed_on_by_the_version_that_failed(new_home: Callable[..., Home], put: Put, night: Night) -> None:
    """A harmless night after one that failed its checks is compared with what is served."""
    home = new_home(
        "home", checks=CheckConfig(min_users=5, max_shift_p50=0.05, min_neighbour_overlap=0, max_domain_auc=1, min_coverage=0.9)
    )
    put(home, history(users=12))
    first = night(home)
    assert first
    promote(home, first.number, expected=None, reason="first")
    put(
        home,
        [
            {"user_id": f"u{n}", "event_id": f"odd{n}-{k}", "ts": 1_740_000_000 + k, "text": "odd", "target": "blue", "value": 90.0}
            for n in range(12)
            for k in range(30)
        ],
    )
    odd = night(home)
    assert odd
    assert "shift_p50" in complaint(odd.checks)
    put(home, [{"user_id": "u1", "event_id": "harmless", "ts": 1_740_100_000, "text": "text 1"}])
    harmless = night(home)
    assert harmless
    assert harmless.parent == odd.number
    assert "shift_p50" in complaint(harmless.checks)
    promote(home, odd.number, expected=first.number, reason="as it should be")
    put(home, [{"user_id": "u1", "event_id": "harmless2", "ts": 1_740_100_001, "text": "text 1"}])
    last = night(home)
    assert last
    assert not complaint(last.checks)


def test_a_quiet_night(home: Home, put: Put, night: Night) -> None:
    with pytest.raises(NotFoundError, match="tapstate ingest"):
        night(home)
    put(home, history(2, 2))
    night(home)
    assert night(home) is None
    assert put(home, history(2, 2)).duplicate == 4
    assert night(home) is None
    assert home.versions.last() == 1
    put(home, [{"user_id": "u9", "ts": 1_700_000_000, "text": "x"}])
    version = night(home)
    assert version
    assert (version.number, version.users, version.users_changed, version.events_new, version.last_ingest) == (2, 3, 1, 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["shard", "commit", "record"])
def test_killed_and_run_again(new_home: Callable[..., Home], put: Put, night: Night, spawn: Spawn, moment: str) -> None:
    home, calm = new_home("hit"), new_home("calm")
    for place in (home, calm):
        put(place, history(30, 12))
    wanted = night(calm)
    assert wanted
    patches = {
        "shard": "real, done = module.Updater.__call__, []\n"
        "module.Updater.__call__ = lambda self, shard: die() if len(done) == 3 else (done.append(1), real(self, shard))[1]",
        "commit": "real = module.States.commit\nmodule.States.commit = lambda *a: (real(*a), die())",
        "record": "module.States.commit = lambda *a: die()",
    }
    die = "die = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
    process = spawn("-c", NIGHT.replace("sys.stdin.readline()", "") + die + patches[moment] + f"\nnight({home.uri!r})")
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert Home(home.uri).versions.last() == 0
    (plan,) = Path(home.uri, "plans").iterdir()
    kept = {path.name for path in plan.glob("update-*.json")}
    shards = len(Refresh(Home(home.uri)).plan()[1].shards)  # type: ignore[index]
    assert len(kept) == (3 if moment == "shard" else shards)
    assert shards >= 5
    computed: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        import pipelines.update as module

        real = module.Updater.__call__
        patch.setattr(module.Updater, "__call__", lambda self, shard: (computed.append(shard.index), real(self, shard))[1])
        version = night(Home(home.uri))
    assert version
    assert computed == (list(range(3, shards)) if moment == "shard" else [])
    assert table(home, version).drop(["run"]).equals(table(calm, wanted).drop(["run"]))
    rows = home.tables.open(States(home, version.aggregator, Models(home).spec(version.aggregator)).name)
    assert rows
    assert rows.count_rows() == version.users == 30
    assert not list(Path(home.uri, "plans").rglob("*.json"))


@pytest.mark.slow
def test_two_at_once_make_one_version(home: Home, put: Put, night: Night, spawn: Spawn) -> None:
    put(home, history(20, 6))
    night(home)
    put(home, history(20, 12))
    both = [
        spawn("-c", f"{NIGHT}\ntry:\n    night({home.uri!r})\nexcept ConflictError as error:\n    print('lost', error)") for _ in range(2)
    ]
    for process in both:
        assert process.stdout
        assert process.stdout.readline() == "planned\n"
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    said = sorted(out.strip() for out, _ in ends)
    assert said[0] == "2"
    assert said[1].startswith("lost another refresh of this line made version 2")
    version = Home(home.uri).versions.get(2)
    assert version
    assert Home(home.uri).versions.last() == 2
    found = table(home, version)
    assert (found.num_rows, sum(found.column("event_count").to_pylist())) == (20, 240) == (version.users, version.events)


def test_the_loser_is_told_who_won(home: Home, put: Put, night: Night) -> None:
    put(home, history(2, 2))
    slow = Refresh(home)
    folder, plan = slow.plan()  # type: ignore[misc]
    assert slow.parent is None
    winner = night(Home(home.uri))
    assert winner
    # Told by the first shard that finds its plan gone; nothing is left of it.
    with pytest.raises(ConflictError, match=f"made version {winner.number} meanwhile"):
        slow.encode(plan)
    with pytest.raises(ConflictError, match=f"made version {winner.number} meanwhile"):
        slow.update(folder, plan)
    assert home.versions.last() == 1
    assert home.objects.names(folder) == []
    assert table(home, winner).num_rows == 2


def test_a_failed_shard_is_named_and_the_others_are_kept(home: Home, put: Put, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """One user's events cannot be computed: the error names the shard and the user; run again, only that shard is done."""
    from pipelines import update
    from schemas.errors import ShardError
    from schemas.keys import user_key

    put(home, history(30, 12))
    real, bad, done = update.Updater._update, "u7", []

    def failing(self: update.Updater, users: Any, *rest: Any) -> Any:
        if bad in users["user_id"].to_list():
            raise ZeroDivisionError("these events")
        return real(self, users, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(update.Updater, "_update", failing)
        with pytest.raises(ShardError, match=rf"1 of \d+ shards failed; shard \d+, first at user key {user_key(bad)}: ZeroDivisionError"):
            night(home)
    shards = len(Refresh(home).plan()[1].shards)  # type: ignore[index]
    assert len(list(Path(home.uri, "plans").rglob("update-*.json"))) == shards - 1
    call = update.Updater.__call__
    monkeypatch.setattr(update.Updater, "__call__", lambda self, shard: (done.append(shard.index), call(self, shard))[1])
    version = night(Home(home.uri))
    assert version
    assert (version.users, len(done)) == (30, 1)


@pytest.mark.parametrize("stage", ["encode", "update"])
def test_work_of_before_a_fence_is_refused(home: Home, put: Put, night: Night, stage: str) -> None:
    """What a worker makes counts as begun when its plan was made, however late it runs; and the plan is not taken up again."""
    put(home, history(12, 4))
    slow = Refresh(home)
    folder, plan = slow.plan()  # type: ignore[misc]
    (name,) = (name for name in home.tables.names() if name.startswith({"encode": "embeddings", "update": "states"}[stage]))
    fence(home.tables, name)
    with pytest.raises(ConflictError, match="purged while it was written to"):
        slow.commit(folder, plan, slow.encode(plan), slow.update(folder, plan), datetime.now(UTC))
    assert not home.objects.names("plans")
    version = night(Home(home.uri))
    assert version
    assert (version.users, version.events) == (12, 48)


def test_what_says_itself_what_mends_it_is_passed_on(home: Home, put: Put, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.update import Updater
    from schemas.errors import HomeError

    def full(self: Updater, *_: Any) -> Any:
        raise HomeError("no space left", where="here", mend="free space")

    put(home, history(4, 4))
    with monkeypatch.context() as patch:
        patch.setattr(Updater, "_update", full)
        with pytest.raises(HomeError, match=r"no space left \(here\)\n  mend: free space"):
            night(home)
    assert night(Home(home.uri))


def test_a_manifest_that_cannot_be_read_is_made_again(home: Home, put: Put, night: Night) -> None:
    put(home, history(12, 12))
    stopped = Refresh(home)
    folder, plan = stopped.plan()  # type: ignore[misc]
    stopped.encode(plan)
    stopped.update(folder, plan)
    for name, data in (("encode-0", b"{"), ("update-0", b'{"seconds": 1}')):
        Path(home.uri, folder, f"{name}.json").write_bytes(data)
    version = night(Home(home.uri))
    assert version
    assert (version.runs, version.users, version.events) == ((plan.run,), 12, 144)
