"""Killed between any two steps that change the disk, every operation leaves readers on whole versions and can be run again."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.home import CONFIG, Home

Spawn = Callable[..., subprocess.Popen[str]]
SCRIPT = str(Path(__file__).with_name("crashes.py"))


def rows(night: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"user_id": f"u{n}", "event_id": f"{night}-{n}", "ts": 1_700_000_000 + night * 86_400 + n, "text": f"t{n}"} for n in range(90)
    ]
    return [*found, {**found[0], "text": "corrected", "ts": found[0]["ts"] + 1}, {"user_id": "", "ts": 1, "text": f"bad {night}"}]


@pytest.fixture
def base(new_home: Callable[..., Home], put: Any, night: Any) -> Home:
    """Two nights, a third's events, and settings under which maintenance has everything to do."""
    home = new_home()
    text = home.objects.get(CONFIG)
    assert text
    config = text.decode().replace("keep_versions = 30", "keep_versions = 1").replace("keep_days = 30", "keep_days = 0")
    home.objects.put(CONFIG, config.replace("grace_minutes = 60", "grace_minutes = 0").encode())
    for number in range(2):
        put(home, rows(number))
        night(Home(home.uri))
    put(home, rows(2))
    return Home(home.uri)


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "stride"), [("ingest", 1), ("refresh", 2), ("rebuild", 4), ("maintain", 1), ("bundle", 1)])
def test_killed_at_every_step(base: Home, tmp_path: Path, spawn: Spawn, operation: str, stride: int) -> None:
    extra = tmp_path / "extra.jsonl"
    extra.write_text("".join(json.dumps(row) + "\n" for row in rows(3)))
    process = spawn(SCRIPT, operation, base.uri, str(extra), str(stride), PYTHONPATH=str(Path(__file__).parents[2]))
    out, err = process.communicate()
    assert process.returncode == 0, err
    runs = [json.loads(line) for line in out.splitlines()]
    assert sum(run["killed"] for run in runs) >= 4
    for run in runs:
        for name in ("looked", "ended"):
            status, text = run[name]
            assert status == 0, f"killed at {run['moment']}: {text}"
            run[name] = json.loads(text)
    calm = runs[0]["ended"]
    assert not runs[0]["killed"]
    for run in runs[1:]:
        assert run["ended"] == calm, f"killed at {run['moment']}"
        # What a reader saw in between is a version that was there before or is there in the end.
        assert run["looked"]["production"] in (None, 3)
    assert calm["left"] == []
