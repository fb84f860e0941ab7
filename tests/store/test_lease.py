"""A lease is held by one, refused to others by name, and taken over from the dead; nothing else."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

import store.lease as module
from schemas.config import Config
from schemas.errors import ConflictError
from schemas.records import LeaseRecord
from store.home import Home
from store.lease import Lease, alive, dead, last, lease, living

Spawn = Callable[..., subprocess.Popen[str]]
HOLD = """
import sys
from store.home import Home
from store.lease import lease
with lease(Home(sys.argv[1]), "line", "a refresh"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def home(place: str) -> Home:
    return Home.create(place, Config())[0]


def aged(home: Home, **change: object) -> None:
    """The last record of the lease, other than it was."""
    record = last(home, "line")
    assert record
    changed = record.model_copy(update=change)
    home.objects.put(f"leases/line/{record.number}.json", changed.model_dump_json().encode())


def test_the_second_is_told_who_holds_it(home: Home) -> None:
    with lease(home, "line", "a refresh of line x"), lease(home, "other", "other work"):
        assert set(living(home)) == {"line", "other"}
        held = last(home, "line")
        assert held
        wanted = rf"a refresh of line x is under way: .*{held.created_by}, process {os.getpid()}.*until {held.expires_at:%H:%M:%S} UTC"
        with pytest.raises(ConflictError, match=wanted) as refused:
            Lease(Home(home.uri), "line", "mine").take()
        assert refused.value.exit_code == 4
    assert living(home) == {}
    assert home.objects.files("leases") == {}
    Lease(home, "line", "mine").take()


def test_asked_in_the_middle_of_a_renewal_it_is_ours(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = module.Lease._write, threading.Event()

    def slow(self: module.Lease, number: int) -> bool:
        made = real(self, number)
        if number > 1:
            written.set()
            threading.Event().wait(0.1)
        return made

    monkeypatch.setattr(module.Lease, "_write", slow)
    with lease(home, "line", "work") as held:
        renewal = threading.Thread(target=held.renew)
        renewal.start()
        written.wait()
        held.check()
        renewal.join()


def test_renewals_make_it_last(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TERM", timedelta(seconds=0.4))
    with lease(home, "line", "work") as held:
        first = last(home, "line")
        assert first
        for _ in range(200):
            threading.Event().wait(0.05)
            now = last(home, "line")
            assert now
            if now.number > first.number:
                break
        assert now.expires_at > first.expires_at
        assert len(home.objects.names("leases/line")) <= 2
        held.check()


def test_a_killed_holder_is_taken_over_at_once(home: Home, spawn: Spawn) -> None:
    if home.objects.remote:
        pytest.skip("the same processes as on a local directory")
    process = spawn("-c", HOLD, home.uri)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConflictError, match=f"process {process.pid}"):
        Lease(home, "line", "mine").take()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert dead(home) == ["line"]
    with lease(home, "line", "mine"):
        assert last(home, "line").pid == os.getpid()  # type: ignore[union-attr]


def test_the_holder_of_another_machine_has_until_its_end(home: Home) -> None:
    Lease(home, "line", "theirs").take()
    aged(home, place="elsewhere", pid=1)
    assert set(living(home)) == {"line"}
    with pytest.raises(ConflictError):
        Lease(home, "line", "mine").take()
    aged(home, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    Lease(home, "line", "mine").take()


def test_a_reused_process_id_is_another_process(home: Home) -> None:
    Lease(home, "line", "theirs").take()
    aged(home, started="long ago")
    Lease(home, "line", "mine").take()


def test_a_clock_set_back_makes_no_lease_eternal(home: Home) -> None:
    Lease(home, "line", "theirs").take()
    late = datetime.now(UTC) + timedelta(days=400)
    aged(home, place="elsewhere", created_at=late, expires_at=late + module.TERM)
    record = last(home, "line")
    assert record
    assert not alive(record)
    Lease(home, "line", "mine").take()


def test_whoever_lost_it_commits_nothing(home: Home) -> None:
    """A holder that slept past its end neither writes tables nor takes back nor releases what is another's by now."""
    import pyarrow as pa

    schema = pa.schema([("n", pa.int64())])
    slow = Lease(home, "line", "slow")
    slow.take()
    aged(home, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with lease(home, "line", "fast"):
        home.tables.guard = slow.check
        with pytest.raises(ConflictError, match="taken over"):
            home.tables.append("t", schema, iter([pa.record_batch({"n": [1]}, schema)]), home.tables.mark("t", schema))
        assert home.tables.open("t").count_rows() == 0  # type: ignore[union-attr]
        with pytest.raises(ConflictError, match="taken over"):
            slow.renew()
        slow.release()
        assert last(home, "line").work == "fast"  # type: ignore[union-attr]


def test_one_of_many_takes_over(home: Home) -> None:
    Lease(home, "line", "dead").take()
    aged(home, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    start, taken = threading.Barrier(6), []

    def take() -> None:
        start.wait()
        try:
            Lease(Home(home.uri), "line", "mine").take()
        except ConflictError:
            return
        taken.append(1)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [1]


def test_a_record_says_what_it_says(home: Home) -> None:
    Lease(home, "line", "work").take()
    data = home.objects.get("leases/line/1.json")
    assert data
    assert LeaseRecord.model_validate_json(data).work == "work"
