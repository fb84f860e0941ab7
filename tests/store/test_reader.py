"""Reading a home from Python: any version, as Arrow or Polars; ids are data wherever they go."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import HomeError, InputError, NotFoundError
from schemas.records import VersionRecord
from store import open_store, snapshot
from store.home import Home
from store.versions import promote

Wrote = Callable[..., VersionRecord]
HOSTILE = [
    "' OR '1'='1",
    "a') OR user_id IS NOT NULL --",
    'x"; DROP TABLE states; --',
    "%",
    "_",
    "\\",
    "a\nb",
    "\x00",
    "ö",
    "💥",
    "null",
    " a",
    "A",
]


def test_look_ups_and_scans(place: str, new_home: Callable[..., Home], wrote: Wrote) -> None:
    home = new_home(place)
    first = wrote(home, 1, {f"u{n}": [1, n, 0, 0] for n in range(20)})
    wrote(home, 2, {"u3": [9, 9, 9, 9], "u4": None}, first)
    promote(home, 1, expected=None, reason="test")
    store = open_store(home.uri)
    assert "2 versions, production=1" in repr(store)
    old, new = store.version(), store.version(2)
    assert (old.number, len(old), len(new)) == (1, 20, 19)
    assert repr(old).startswith("<version 1 production: 20 users")
    found = new.states(["u7", "nobody", "u3", "u4", "u7"])
    assert isinstance(found, pa.Table)
    assert found.column_names == ["user_id", "event_count", "first_ts", "last_ts", "mean", "mark"]
    assert found.select(["user_id", "mark"]).to_pylist() == [{"user_id": "u7", "mark": 1}, {"user_id": "u3", "mark": 2}]
    assert old.states(["u4"], ["mark"]).to_pylist() == [{"mark": 1}]
    assert new.states([], ["mark"]).to_pylist() == new.states(["nobody"], ["mark"]).to_pylist() == []
    frame = new.to_polars(["user_id", "mark"], filter=pc.field("event_count") == 2)
    assert frame.rows() == [("u3", 2)]
    # u3's row of run 1 passes the filter, but it is not the one that counts.
    assert "u3" not in new.to_arrow(["user_id"], filter=pc.field("mark") == 1).column("user_id").to_pylist()
    assert new.to_arrow().num_rows == 19
    assert store.versions().select("number", "users").rows() == [(1, 20), (2, 19)]
    assert old.compare(new).vanished == 1
    assert store.version(datetime.now(UTC)).number == 1
    with pytest.raises(InputError, match=r"no column 'run'(.|\n)*user_id, event_count"):
        new.states(["u1"], ["run"])
    with pytest.raises(NotFoundError):
        store.version("staging")


def test_a_scan_in_steps_is_the_whole(home: Home, wrote: Wrote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "STEP", 9)
    version = open_store(wrote(home, 1, {f"u{n}": [1, n, 0, 0] for n in range(50)}) and home.uri).version(1)
    parts = list(version.scan(["user_id"]))
    assert len(parts) == 6
    assert sorted(u for part in parts for u in part.column("user_id").to_pylist()) == sorted(f"u{n}" for n in range(50))
    # Wide rows come in smaller steps: bytes are what memory has to hold.
    monkeypatch.setattr(snapshot, "STEP", 1_000)
    monkeypatch.setattr(snapshot, "STEP_BYTES", 10 * version.spec.row_bytes(version.columns))
    assert (len(list(version.scan())), len(list(version.scan(["user_id"])))) == (5, 1)


def test_hostile_ids(home: Home, wrote: Wrote, put: Callable[..., object]) -> None:
    wrote(home, 1, {**{user: [1, n, 0, 0] for n, user in enumerate(HOSTILE[:6])}, "alice": [1, 0, 0, 0]})
    version = open_store(home.uri).version(1)
    for n, user in enumerate(HOSTILE):
        found = version.states([user])
        assert found.column("user_id").to_pylist() == ([user] if n < 6 else []), user
    assert version.states(HOSTILE).column("user_id").to_pylist() == HOSTILE[:6]
    put(home, [{"user_id": user, "ts": 1_700_000_000, "text": f"of {n}"} for n, user in enumerate(["alice", *HOSTILE[:2]])])
    store = open_store(home.uri)
    assert store.events(HOSTILE[:1], ["user_id", "text"]).rows() == [(HOSTILE[0], "of 1")]
    assert len(store.events(HOSTILE[2:])) == 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.text(max_size=20).filter(lambda text: "\x00" not in text), max_size=5))
def test_any_text_is_an_id(home: Home, wrote: Wrote, ids: list[str]) -> None:
    if not home.versions.last():
        wrote(home, 1, {"alice": [1, 0, 0, 0]})
    found = open_store(home.uri).version(1).states(ids)
    assert found.column("user_id").to_pylist() == [user for user in dict.fromkeys(ids) if user == "alice"]


def test_reading_is_light(spawn: Callable[..., subprocess.Popen[str]], home: Home, wrote: Wrote, tmp_path: Path) -> None:
    wrote(home, 1, {"a": [1, 0, 0, 0]})
    code = f"""
import sys
from store import open_store
assert open_store({home.uri!r}).version().states(["a"]).num_rows == 1
print(sorted({{"torch", "prefect", "apache_beam", "transformers", "sklearn"}} & set(sys.modules)))
"""
    out, err = spawn("-c", code).communicate()
    assert out == "[]\n", err
    out, err = spawn(
        "-c", "import sys, store.client; print(sorted({'lance', 'lancedb', 'polars', 'pydantic'} & set(sys.modules)))"
    ).communicate()
    assert out == "[]\n", err
    with pytest.raises(HomeError, match="init"):
        open_store(str(tmp_path / "none"))
