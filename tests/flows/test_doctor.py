"""Prepared faults: the doctor names each, with its mending command; a sound home has none."""

import json
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import flows.doctor as module
import store.lease as leases
from flows.doctor import Finding, examine
from pipelines.refresh import Refresh
from schemas.config import EncoderConfig, render
from schemas.records import VersionRecord
from store import open_store
from store.home import Home
from store.lease import Lease
from store.lines import Lines

Night = Callable[..., VersionRecord | None]


def rows(count: int, first: int = 0, users: int = 12) -> list[dict[str, Any]]:
    return [
        {"user_id": f"u{n % users}", "event_id": str(n), "ts": 1_700_000_000 + n, "text": f"t{n % 9}"} for n in range(first, first + count)
    ]


def bad(home: Home) -> dict[str, Finding]:
    """What is not as it should be, by check; of a fresh look at the home."""
    return {finding.check: finding for finding in examine(Home(home.uri)) if finding.status != "ok" and finding.check != "disk"}


def test_a_sound_home(home: Home, put: Any, night: Night, promoted: Callable[[Home], None]) -> None:
    put(home, rows(30))
    night(home)
    promoted(home)
    assert bad(home) == {}
    before = set(home.objects.files())
    examine(home)
    assert set(home.objects.files()) == before


@pytest.fixture
def promoted() -> Callable[[Home], None]:
    from store.versions import PRODUCTION, current, promote

    def run(home: Home) -> None:
        promote(home, home.versions.last(), expected=current(home, PRODUCTION), reason="test")

    return run


def test_an_empty_home(home: Home) -> None:
    assert bad(home)["nights"].mend == "tapstate ingest table FILE…"


def test_half_of_the_events_are_missing(home: Home, put: Any) -> None:
    for day in range(4):
        put(home, rows(120, first=day * 120), name=f"{day}.jsonl")
    assert "ingests" not in bad(home)
    put(home, rows(50, first=900), name="half.jsonl")
    assert "brought 50 events, none of the 3 before fewer than 120" in bad(home)["ingests"].found
    # What is there already came too, and the next usual night is none of a few.
    put(home, rows(120, first=360), name="again.jsonl")
    assert "ingests" not in bad(home)


def test_a_first_load_says_nothing_of_what_is_usual(home: Home, put: Any) -> None:
    """Nor do a large source and a small one that come in turns."""
    put(home, rows(900), name="past.jsonl")
    for day in range(6):
        put(home, rows((120, 300)[day % 2], first=1_000 + day * 300), name=f"{day}.jsonl")
        assert "ingests" not in bad(home)


def test_one_user_explodes(home: Home, put: Any) -> None:
    # Others have more in all.
    put(home, [{**row, "user_id": "old", "event_id": f"o{n}"} for n, row in enumerate(rows(400))], name="before.jsonl")
    put(home, [*rows(200), *({**row, "user_id": "loud", "event_id": f"x{n}"} for n, row in enumerate(rows(150)))])
    found = bad(home)["users"]
    assert "has 150 of 350 events" in found.found
    assert "loud" not in found.found
    _, command, query = shlex.split(found.mend)
    assert command == "sql"
    assert open_store(home.uri).sql(query).row(0) == ("loud", 150)


def test_many_rejects(home: Home, put: Any) -> None:
    put(home, [*rows(90), *({"user_id": "", "ts": 1, "text": "x"} for _ in range(20))])
    assert "rejected 20 of 110 rows" in bad(home)["ingests"].found


def test_a_clock_that_was_ahead(home: Home, put: Any, night: Night, rewrite: Callable[..., None]) -> None:
    put(home, rows(30))
    night(home)
    rewrite(home, "versions/1.json", "created_at", timedelta(days=2))
    found = bad(home)["clock"]
    assert (found.status, "timedatectl" in found.mend) == ("fail", True)


def test_nights_that_stopped(home: Home, put: Any, night: Night, rewrite: Callable[..., None]) -> None:
    put(home, rows(30))
    night(home)
    put(home, rows(7, first=50), name="more.jsonl")
    rewrite(home, "versions/1.json", "created_at", -timedelta(days=3))
    assert "7 events wait" in bad(home)["nights"].found


@pytest.fixture
def rewrite() -> Callable[..., None]:
    def run(home: Home, path: str, name: str, by: timedelta) -> None:
        from datetime import datetime

        record = json.loads(home.objects.get(path) or b"")
        record[name] = (datetime.fromisoformat(record[name]) + by).isoformat()
        home.objects.put(path, json.dumps(record).encode())

    return run


def test_another_encoder_in_the_lines_place(
    home: Home, put: Any, night: Night, promoted: Callable[[Home], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from encoders.text import TextEncoder

    put(home, rows(30))
    night(home)
    promoted(home)
    monkeypatch.setattr(TextEncoder, "fingerprint", "f" * 64)
    assert bad(home)["encoder"].status == "fail"


def test_a_configured_encoder_that_no_line_uses(home: Home, put: Any, night: Night) -> None:
    put(home, rows(30))
    night(home)
    used = home.config.encoder
    Lines(home).open(home.versions.get(1).aggregator, used, reason="test")  # type: ignore[union-attr]
    assert "encoder" not in bad(home)
    home.objects.put("config.toml", render(home.config.model_copy(update={"encoder": EncoderConfig(model="other/model")})).encode())
    found = bad(home)["encoder"]
    assert (found.status, "other/model" in found.found) == ("warn", True)


def test_a_stuck_lease_a_dead_one_and_a_cut_off_plan(home: Home, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, rows(30))
    Refresh(home).plan()
    assert "a refresh of" in bad(home)["plans"].found
    held = Lease(home, "refresh-x", "a refresh")
    held.take()
    assert "leases" not in bad(home)
    monkeypatch.setattr(module, "STUCK", timedelta(0))
    since = bad(home)["leases"].found
    assert f"since {datetime.now(UTC):%Y-}" in since
    held.renew()
    assert bad(home)["leases"].found == since
    monkeypatch.setattr(leases, "_started", lambda pid: "another process")
    assert "its holder is dead" in bad(home)["leases"].found


def test_what_is_damaged_is_told_with_its_mending(home: Home, put: Any, night: Night) -> None:
    put(home, rows(30))
    night(home)
    home.objects.put("versions/1.json", b"{")
    found = bad(home)["records"]
    assert found.status == "fail"
    assert "versions/1.json" in found.found
    assert found.mend


def test_a_check_whose_package_is_not_installed(home: Home, put: Any, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, rows(30))
    night(home)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = {finding.check: finding for finding in examine(home)}
    assert (found["gpu"].status, "torch is not installed" in found["gpu"].found) == ("warn", True)
    assert found["leases"].status == "ok"


def test_the_command(home: Home, put: Any, night: Night, spawn: Any, tmp_path: Path) -> None:
    put(home, rows(30))
    night(home)
    process = spawn("-m", "flows.cli", "--home", home.uri, "doctor", "--output", "json")
    out, err = process.communicate(timeout=300)
    found = {row["check"]: row for row in json.loads(out)}
    assert (process.returncode, found["production"]["status"]) == (5, "fail"), err
    assert set(found["production"]) == {"check", "status", "found", "mend"}
