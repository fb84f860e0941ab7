"""SQL over a home: what the tables hold, by version; reading only."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from schemas.errors import InputError, NotFoundError
from schemas.records import VersionRecord
from store import open_store, sql
from store.home import Home
from store.snapshot import Snapshot
from store.versions import promote

DAY = 86_400


@pytest.fixture
def filled(home: Home, put: Any, night: Callable[..., VersionRecord | None], monkeypatch: pytest.MonkeyPatch) -> Home:
    """Two versions; a corrected event, a deleted one and a reject; the second version is the candidate."""
    rows = [{"user_id": f"u{n % 7}", "event_id": f"e{n}", "ts": 1_700_000_000 + n * DAY, "text": f"t{n}"} for n in range(40)]
    put(home, [*rows, {"user_id": "", "ts": 1, "text": "x"}])
    first = night(home)
    changes = [{**rows[0], "text": "corrected"}, {"user_id": "u1", "event_id": "e1", "op": "delete"}]
    put(home, [*changes, {"user_id": "it's", "event_id": "q", "ts": 1_700_000_000, "text": "a states@1 text"}], name="more.jsonl")
    second = night(home)
    assert first
    assert second
    promote(home, first.number, expected=None, reason="test")
    promote(home, second.number, alias="candidate", expected=None, reason="test")
    # Many steps even of so few rows.
    monkeypatch.setattr("store.snapshot.STEP", 3)
    return home


def test_states_of_any_version(filled: Home) -> None:
    store = open_store(filled.uri)
    for name, count in (("states", 7), ("states@1", 7), ("states@2", 8), ("states@candidate", 8), ('"states@candidate"', 8)):
        assert store.sql(f"SELECT count(*) AS n FROM {name} -- FROM read_csv('x')").item() == count
    joined = "SELECT b.user_id FROM states@2 b LEFT JOIN states@1 a ON a.user_id = b.user_id WHERE a.user_id IS NULL"
    assert store.sql(joined)["user_id"].to_list() == ["it's"]
    wide = store.sql("SELECT * FROM states@2 ORDER BY user_id")
    assert wide.equals(store.version(2).to_polars().sort("user_id"))
    assert store.sql("SELECT user_id FROM states@2 WHERE user_id = 'it''s'").height == 1
    assert store.sql("SELECT user_id FROM states@2 LIMIT 2").height == 2


def test_events_are_the_current_ones_and_rejects_have_reasons(filled: Home) -> None:
    store = open_store(filled.uri)
    found = store.sql("SELECT text, revision FROM events WHERE user_id = 'u0' AND event_id = 'e0'")
    assert found.rows() == [("corrected", 2)]
    assert store.sql("SELECT count(*) FROM events").item() == 40
    assert store.sql("SELECT text FROM events WHERE text = 'a states@1 text'").height == 1
    by_ingest = store.sql("SELECT ingest, count(*) AS n FROM events GROUP BY ingest ORDER BY ingest")
    assert by_ingest.rows() == [(1, 38), (2, 2)]
    assert store.sql("SELECT event_id FROM events WHERE ingest = 2 ORDER BY event_id")["event_id"].to_list() == ["e0", "q"]
    assert store.sql("SELECT reason FROM rejects").height == 1
    assert store.sql("SELECT user_id FROM events WHERE event_id = 'e1'").is_empty()


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE states",
        "CREATE TABLE x AS SELECT * FROM states",
        "DELETE FROM states WHERE 1 = 1",
        "TRUNCATE TABLE states",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM READ_PARQUET /* x */ ('x')",
        "SELECT * FROM \"read_csv\"('/etc/passwd')",
        "SELECT a AS \"x'\" FROM read_csv('/etc/passwd')",
        "SELECT 'read_csv' FROM states",
        "SELECT 1; DROP TABLE states",
        "SELECT nope FROM states",
        "SELECT * FROM users",
        "SELECT CAST(user_id AS BIGINT) FROM states",
        "",
    ],
)
def test_anything_else_is_refused(filled: Home, text: str) -> None:
    with pytest.raises(InputError):
        open_store(filled.uri).sql(text)


def test_a_plan_that_reads_a_file_is_refused_whatever_its_words(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_FILES", re.compile("never"))
    with pytest.raises(InputError, match="only reading"):
        open_store(filled.uri).sql("SELECT * FROM read_csv('/etc/hostname')")


def test_the_callers_own_frames(filled: Home) -> None:
    chosen = pl.DataFrame({"user_id": ["u1", "u2", "nobody"]})
    query = "SELECT s.user_id FROM states s JOIN chosen c ON s.user_id = c.user_id ORDER BY s.user_id"
    for frame in (chosen, chosen.lazy(), chosen.to_arrow()):
        assert open_store(filled.uri).sql(query, chosen=frame)["user_id"].to_list() == ["u1", "u2"]


def test_a_version_that_is_not_there(filled: Home) -> None:
    with pytest.raises(NotFoundError, match="99"):
        open_store(filled.uri).sql("SELECT * FROM states@99")
    with pytest.raises(InputError, match="no table"):
        sql.table(filled, "users")


def test_only_the_columns_asked_for_are_read(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    scan = Snapshot.scan
    monkeypatch.setattr(Snapshot, "scan", lambda self, columns=None, **o: (asked.append(columns), scan(self, columns, **o))[1])
    open_store(filled.uri).sql("SELECT max(event_count) FROM states")
    assert asked == [["event_count"]]


def test_similar_is_the_largest_cosine(filled: Home) -> None:
    snapshot = Snapshot.of(filled, 2)
    found = snapshot.similar("u3", top=4)
    table = snapshot.to_arrow()
    vectors, ids = snapshot.spec.vectors(table).astype(np.float64), table.column("user_id").to_pylist()
    mine = vectors[ids.index("u3")]
    cosine = vectors @ mine / np.linalg.norm(vectors, axis=1) / np.linalg.norm(mine)
    wanted = sorted((pair for pair in zip(cosine, ids, strict=True) if pair[1] != "u3"), reverse=True)[:4]
    assert found["user_id"].to_list() == [user for _, user in wanted]
    np.testing.assert_allclose(found["cosine"].to_numpy(), [value for value, _ in wanted], atol=1e-6)
    with pytest.raises(NotFoundError, match="no user 'nobody'"):
        snapshot.similar("nobody")


def test_a_plan_can_be_streamed_to_a_file(filled: Home, tmp_path: Any) -> None:
    sql.table(filled, "states@2").sink_parquet(tmp_path / "states.parquet")
    assert pl.read_parquet(tmp_path / "states.parquet").equals(Snapshot.of(filled, 2).to_polars())
