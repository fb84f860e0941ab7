"""Searching files: nothing that is there is missed, and a longer word is not the word."""

import gzip
import json
import sqlite3
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.decode import decode
from store.home import Home
from store.needles import Anchors, Needles
from store.proof import prove
from store.scrub import Scrub

USER = "person-0003"


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.binary(min_size=4, max_size=40), min_size=1, max_size=6),
    st.lists(st.one_of(st.binary(max_size=60), st.integers(0, 5)), max_size=12),
)
def test_found_wherever_bytes_are(needles: list[bytes], pieces: list[bytes | int]) -> None:
    data = b"".join(needles[p % len(needles)] if isinstance(p, int) else p for p in pieces)
    found = Anchors(needles).find(np.frombuffer(data, np.uint8))
    wanted = {(end, n) for n in needles for end in range(len(n), len(data) + 1) if data[end - len(n) : end] == n}
    assert set(found) == wanted


def test_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.needles.CHUNK", 16)
    data = np.frombuffer(b"." * 11 + b"needle-one" + b"." * 30 + b"needle-one", np.uint8)
    assert [end for end, _ in Anchors([b"needle-one"]).find(data)] == [21, 61]


def write(kind: str, place: Path, text: str) -> None:
    table = pa.table({"user_id": [text, "b"] * 50, "text": ["compressible"] * 100})
    place.mkdir(parents=True, exist_ok=True)
    if kind == "lance":
        lance.write_dataset(table, str(place / "t.lance"))
    elif kind == "index":
        data = lance.write_dataset(table, str(place / "t.lance"))
        data.create_scalar_index("user_id", "BTREE")
        for path in (place / "t.lance" / "data").iterdir():
            path.unlink()
    elif kind == "arrow":
        with pa.ipc.new_file(str(place / "a.arrow"), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
    elif kind == "gzip":
        (place / "a.log.gz").write_bytes(gzip.compress(f"saw {text} today\n".encode() * 100))
    elif kind == "json":
        (place / "a.json").write_text(json.dumps({"deep": [{"who": text}]}))
    elif kind == "log":
        (place / "a.log").write_text(f"saw {text} today")
    elif kind == "sqlite":
        with sqlite3.connect(place / "a.db") as base:
            base.execute("create table t (a text, b blob)")
            base.execute("insert into t values (?, ?)", ("x", f"run of {text}".encode()))
        base.close()


@pytest.mark.parametrize("kind", ["lance", "index", "arrow", "gzip", "json", "log", "sqlite"])
def test_every_kind_of_file(home: Home, tmp_path: Path, kind: str) -> None:
    needles = Needles(ids=frozenset({USER.encode()}))
    assert not prove(home, needles, (tmp_path / "aside",)).hits
    write(kind, tmp_path / "aside", USER)
    assert prove(home, needles, (tmp_path / "aside",)).hits
    write(kind, Path(home.uri) / "left-over", USER)
    assert any("left-over" in hit for hit in prove(home, needles).hits)


@pytest.mark.parametrize("kind", ["lance", "arrow", "gzip", "json", "sqlite"])
def test_a_longer_word_is_another(home: Home, tmp_path: Path, kind: str) -> None:
    write(kind, tmp_path / "aside", f"{USER}4")
    assert not prove(home, Needles(ids=frozenset({USER.encode()})), (tmp_path / "aside",)).hits


def test_a_damaged_file_is_searched_as_bytes(home: Home) -> None:
    path = Path(home.uri) / "half.lance"
    path.write_bytes(b"\x00\x01" + USER.encode() + b"broken off")
    assert decode(path) is None
    assert dict(prove(home, Needles(ids=frozenset({USER.encode()}))).hits) == {"half.lance: raw bytes": 1}


def test_scrubbed_databases_and_logs_hold_nothing(tmp_path: Path, home: Home) -> None:
    for kind in ("sqlite", "log"):
        write(kind, tmp_path / "journals", USER)
    with sqlite3.connect(tmp_path / "journals" / "a.db") as base:
        base.execute("insert into t values (?, 'kept')", (f"{USER}4",))
        base.execute("insert into t select a, ? from t", (f"deleted of {USER}",))
        base.execute("delete from t where b like 'deleted%'")
    base.close()
    needles, scrub = Needles(ids=frozenset({USER.encode()})), Scrub({USER: "user-1"})
    assert {hit.rsplit(": ")[1] for hit in prove(home, needles, (tmp_path / "journals",)).hits} >= {"t.b", "raw bytes"}
    assert scrub.count(tmp_path / "journals") == 2
    assert scrub.clean(tmp_path / "journals") == 2
    assert scrub.count(tmp_path / "journals") == 0
    assert not prove(home, needles, (tmp_path / "journals",)).hits
    with sqlite3.connect(tmp_path / "journals" / "a.db") as base:
        assert base.execute("select a, b from t order by b").fetchall() == [("person-00034", "kept"), ("x", b"run of user-1")]
    base.close()
    assert (tmp_path / "journals" / "a.log").read_text() == "saw user-1 today"
