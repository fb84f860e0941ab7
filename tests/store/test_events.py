"""The event log: what a record names counts, the latest revision of each event most."""

from collections.abc import Callable
from datetime import UTC, datetime

import polars as pl

from schemas.events import EVENTS
from schemas.keys import user_key
from store.events import EventLog
from store.home import Home

Put = Callable[..., object]


def row(user: str, event: str, text: str = "hi", **more: object) -> dict[str, object]:
    return {"user_id": user, "event_id": event, "ts": 1_700_000_000, "text": text, **more}


def test_an_empty_log(home: Home) -> None:
    log = EventLog(home)
    assert list(log.scan(["user_id"], after=0, until=0)) == []
    assert log.current(["user_id", "ts"], after=0, until=0).is_empty()
    assert log.lookup([1, 2], 0).is_empty()
    assert log.rejects(0).is_empty()


def test_latest_revision_counts_and_deletes_hide(home: Home, put: Put) -> None:
    put(home, [row("u", "a", "one"), row("u", "b"), row("v", "a", "other user's a")])
    put(home, [row("u", "a", "two"), {"user_id": "u", "event_id": "b", "op": "delete"}])
    log = EventLog(home)
    now = log.current(["user_id", "event_id", "text"], after=0, until=2).sort("user_id").rows()
    assert now == [("u", "a", "two"), ("v", "a", "other user's a")]
    before = log.current(["user_id", "event_id", "text"], after=0, until=1).sort("user_id", "event_id").rows()
    assert before == [("u", "a", "one"), ("u", "b", "hi"), ("v", "a", "other user's a")]
    new = pl.concat(log.scan(["event_id", "revision"], after=1, until=2)).sort("event_id").rows()
    assert new == [("a", 2), ("b", 2)]


def test_rows_that_no_record_names_do_not_count(home: Home, put: Put) -> None:
    put(home, [row("u", "a")])
    log = EventLog(home)
    orphan = pl.concat(log.scan(EVENTS.names, after=0, until=1)).with_columns(ingest=pl.lit(123, pl.Int64), revision=pl.lit(9, pl.Int32))
    log.append(iter(orphan.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(EVENTS).to_batches()), log.mark()[0])
    assert home.tables.open("events").count_rows() == 2  # type: ignore[union-attr]
    assert pl.concat(log.scan(["revision"], after=0, until=1)).rows() == [(1,)]
    assert log.current(["revision"], after=0, until=1).rows() == [(1,)]
    assert log.lookup(orphan["event_key"], 1)["revision"].to_list() == [1]


def test_ids_are_data(home: Home, put: Put) -> None:
    odd = ["x' OR 1=1", "x' OR '1'='1", '"; DROP TABLE events; --', "%", "_", "\\", "né\u200b", "日本", "x", "X"]
    put(home, [row(user, f"e'{user}", text=f"of {user}") for user in odd])
    log = EventLog(home)
    for user in odd:
        users = pl.Series([user_key(user)])
        assert log.current(["user_id", "text"], after=0, until=1, users=users).rows() == [(user, f"of {user}")]


def test_ranges_of_keys_part_the_log(home: Home, put: Put) -> None:
    put(home, [row(f"u{i}", "e") for i in range(40)])
    log = EventLog(home)
    keys = sorted(user_key(f"u{i}") for i in range(40))
    middle = keys[20]
    low = pl.concat(log.scan(["user_key"], after=0, until=1, high=middle - 1))["user_key"].to_list()
    high = pl.concat(log.scan(["user_key"], after=0, until=1, low=middle))["user_key"].to_list()
    assert sorted(low) == keys[:20]
    assert sorted(high) == keys[20:]


def test_knowledge_time(home: Home, put: Put) -> None:
    put(home, [row("u", "a", known_at="2024-01-02"), row("u", "b", known_at="2024-01-01")])
    put(home, [row("u", "a")])
    log = EventLog(home)
    assert log.known_at_max(home.ingests.all()) == int(datetime(2024, 1, 2, tzinfo=UTC).timestamp())
    assert log.known_at_max(home.ingests.range(1, 2)) is None
