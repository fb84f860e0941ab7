"""Every row becomes an event or a reject with a reason, and keys never change."""

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import keys
from pipelines.sources import RawBatch, unreadable
from pipelines.sources.table import TableSource
from pipelines.validation import instants, validate
from schemas.events import EVENTS, MAX_ID_BYTES, MAX_RAW_BYTES, MAX_TASK_BYTES, MAX_TEXT_BYTES, REJECTS
from schemas.keys import user_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = {"user_id": "u", "ts": "1700000000", "text": "hello"}


def judge(*rows: Mapping[str, object], historical: bool = False) -> tuple[pl.DataFrame, pl.DataFrame]:
    frame = pl.DataFrame(list(rows)).with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line"))
    events, rejects = validate(RawBatch("s", frame), now=NOW, historical=historical, run=7)
    assert len(events) + len(rejects) == len(rows)
    return events, rejects


def test_columns_are_those_of_the_schemas() -> None:
    events, rejects = judge(GOOD, {**GOOD, "text": ""})
    assert set(events.columns) == {*EVENTS.names, "line", "known_given"} - {"revision"}
    kept = EVENTS.remove(EVENTS.get_field_index("revision"))
    assert events.select(kept.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(kept).schema == kept
    assert rejects.columns == [name for name in REJECTS.names if name != "reject_key"]
    assert rejects.rows() == [("s", 2, "text is missing", '{"user_id":"u","ts":"1700000000","text":""}', 7)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, "user_id is missing"),
        ({"user_id": " \t"}, "user_id is missing"),
        ({"user_id": "ü" * 257}, f"user_id is longer than {MAX_ID_BYTES} bytes"),
        ({"event_id": "e" * 513}, f"event_id is longer than {MAX_ID_BYTES} bytes"),
        ({"op": "upsert"}, "op is neither put nor delete"),
        ({"op": "delete"}, "event_id is missing: a delete must name its event"),
        ({"ts": None}, "ts is missing"),
        ({"ts": "  "}, "ts is missing"),
        ({"ts": "yesterday"}, "unreadable ts"),
        ({"ts": "NaN"}, "unreadable ts"),
        ({"ts": "01/02/2024"}, "unreadable ts"),
        ({"ts": "24-01-02"}, "unreadable ts"),
        ({"ts": "2024-02-30"}, "unreadable ts"),
        ({"ts": "2024-02-03T25:00"}, "unreadable ts"),
        ({"ts": "0"}, "ts is not after 1970-01-01"),
        ({"ts": "-2177452800"}, "ts is not after 1970-01-01"),
        ({"ts": "1901-01-01"}, "ts is not after 1970-01-01"),
        ({"ts": "2999-01-01"}, "ts is in the future"),
        ({"ts": "32472144000"}, "ts is in the future"),
        ({"ts": "32472144000000"}, "ts is in the future"),
        ({"ts": "32472144000000000000"}, "ts is in the future"),
        ({"ts": "9" * 38}, "ts is in the future"),
        ({"ts": "1e300"}, "ts is in the future"),
        ({"known_at": "soon"}, "unreadable known_at"),
        ({"known_at": "0"}, "known_at is not after 1970-01-01"),
        ({"known_at": "2999-01-01"}, "known_at is in the future"),
        ({"text": None}, "text is missing"),
        ({"text": " \n"}, "text is missing"),
        ({"text": "x" * (MAX_TEXT_BYTES + 1)}, f"text is longer than {MAX_TEXT_BYTES} bytes"),
        ({"task": "ü" * 33}, f"task is longer than {MAX_TASK_BYTES} bytes"),
        ({"value": "many"}, "unreadable value"),
        ({"value": "nan"}, "unreadable value"),
        ({"value": "-inf"}, "unreadable value"),
        ({"value": "1e999"}, "unreadable value"),
        ({"user_id": "", "text": ""}, "user_id is missing; text is missing"),
    ],
)
def test_faults_are_named(change: dict[str, object], reason: str) -> None:
    events, rejects = judge({**GOOD, **change})
    assert not len(events)
    assert rejects["reason"].to_list() == [reason]
    assert rejects["raw"].str.len_bytes()[0] <= MAX_RAW_BYTES


def test_nan_is_nobody() -> None:
    events, rejects = judge({**GOOD, "user_id": float("nan")}, {**GOOD, "user_id": 12.0}, {**GOOD, "user_id": 1.5})
    assert events["user_id"].to_list() == ["12", "1.5"]
    assert rejects["reason"].to_list() == ["user_id is missing"]
    _, rejects = judge({**GOOD, "ts": float("nan")}, {**GOOD, "ts": float("inf")})
    assert set(rejects["reason"]) == {"unreadable ts"}
    _, rejects = judge({**GOOD, "value": float("nan")})
    assert rejects["reason"].to_list() == ["unreadable value"]


@pytest.mark.parametrize(
    "ts",
    [
        "1700000000", "1700000000000", "1700000000000000", "1700000000000000000", "1.7e9", "1700000000.0", " 1700000000 ",
        "2023-11-14T22:13:20Z", "2023-11-14 22:13:20", "2023-11-14T22:13:20.000000000+00:00", "2023-11-15T03:43:20+0530",
        "2023-11-14T14:13:20-08", "2023-11-14 22:13:20 UTC",
    ],
)  # fmt: skip
def test_times_of_any_kind(ts: str) -> None:
    assert judge({**GOOD, "ts": ts})[0]["ts"].to_list() == [datetime.fromtimestamp(1_700_000_000, UTC)]


def test_times_of_arrow_types() -> None:
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    for unit in ("ms", "us", "ns"):
        for zone in (None, "Europe/Berlin"):
            column = pl.Series([at, None], dtype=pl.Datetime("us", "UTC")).dt.cast_time_unit(unit)
            column = column.dt.convert_time_zone(zone) if zone else column.dt.replace_time_zone(None)
            assert instants(column).to_list() == [at, None]
    assert instants(pl.Series([date(2023, 11, 14)])).to_list() == [datetime(2023, 11, 14, tzinfo=UTC)]
    assert instants(pl.Series([Decimal("1700000000.00")])).to_list() == [at]
    assert instants(pl.Series([True, None])).to_list() == [None, None]
    assert instants(pl.Series([2**63 - 1, 2**64 - 1], dtype=pl.UInt64)).dt.year().to_list() == [2262, 2554]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(10**14, 4 * 10**15), st.sampled_from([1_000_000, 1000, 1])), min_size=1))
def test_units_are_told_apart_row_by_row(drawn: list[tuple[int, int]]) -> None:
    """Whole numbers are exact in every unit, also side by side."""
    numbers = [micros // scale for micros, scale in drawn] + [micros * 1000 + 999 for micros, _ in drawn]
    expected = [n * scale for n, (_, scale) in zip(numbers, drawn, strict=False)] + [micros for micros, _ in drawn]
    for column in (pl.Series(numbers, dtype=pl.Int64), pl.Series([str(n) for n in numbers])):
        assert instants(column).to_physical().to_list() == expected


@settings(deadline=None)
@given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), min_size=1), st.integers(-14 * 60, 14 * 60))
def test_iso_as_python_reads_it(times: list[datetime], minutes: int) -> None:
    offset = timedelta(minutes=minutes)
    texts = [t.replace(tzinfo=UTC).astimezone(timezone(offset)).isoformat() for t in times]
    assert instants(pl.Series(texts)).to_list() == [t.replace(tzinfo=UTC) for t in times]


def test_known_at() -> None:
    at = datetime.fromtimestamp(1_700_000_000, UTC)
    rows: list[dict[str, object]] = [{**GOOD, "known_at": None}, {**GOOD, "known_at": "1700000005"}]
    assert judge(*rows)[0].select("known_at", "known_given").rows() == [
        (NOW, False), (at + timedelta(seconds=5), True)
    ]  # fmt: skip
    assert judge(*rows, historical=True)[0]["known_at"].to_list() == [at, at + timedelta(seconds=5)]


def test_deletes_need_only_their_key() -> None:
    events, _ = judge({"user_id": "u", "event_id": "e", "op": "delete", "text": None, "ts": None})
    row = events.row(0, named=True)
    assert row["op"] == "delete"
    assert row["ts"] is None
    assert row["text"] is None
    assert row["text_key"] is None
    with_text, _ = judge({**GOOD, "event_id": "e", "op": "delete", "target": "x"})
    assert with_text.row(0, named=True)["text"] is None
    assert with_text.row(0, named=True)["target_key"] is None


def test_content_decides_id_and_key() -> None:
    full = {**GOOD, "target": "t", "value": "1.5", "known_at": "1700000001"}
    base = judge(full)[0].row(0, named=True)
    assert base["event_id"].startswith("h-")
    assert len(base["event_id"]) == 34
    for same in ({"known_at": None}, {"event_id": " "}, {"ts": "1700000000000"}, {"value": "1.50"}, {"user_id": " u "}):
        row = judge({**full, **same})[0].row(0, named=True)
        assert (row["event_id"], row["content_key"]) == (base["event_id"], base["content_key"])
    for other in ({"text": "hello "}, {"target": None}, {"value": "0"}, {"value": None}, {"ts": "1700000001"}):
        row = judge({**full, **other})[0].row(0, named=True)
        assert row["event_id"] != base["event_id"]
        assert row["content_key"] != base["content_key"]
    assert judge({**full, "target": ""})[0]["target"].to_list() == [None]
    zeros = judge({**full, "value": "0.0"}, {**full, "value": "-0.0"})[0]
    assert zeros["content_key"].n_unique() == 1
    assert judge({**GOOD, "text": "a\0b\x01"})[0]["text"].to_list() == ["a\0b\x01"]


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1))
def test_user_key_is_the_contract(users: list[str]) -> None:
    found = pl.DataFrame({"u": users}).select(keys.user_key(pl.col("u")))["u"].to_list()
    assert found == [user_key(user) for user in users]


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(alphabet="a:1~", max_size=4), st.text(alphabet="a:1~", max_size=4)), unique=True))
def test_joined_keys_are_unambiguous(pairs: list[tuple[str, str]]) -> None:
    frame = pl.DataFrame(pairs, schema={"u": pl.String, "e": pl.String}, orient="row")
    assert frame.select(keys.event_key(pl.col("u"), pl.col("e"))).to_series().n_unique() == len(pairs)


def test_keys_are_golden() -> None:
    """Stored keys must stay readable by every later release: these values never change."""
    events, _ = judge(
        {"user_id": "alice", "event_id": "e1", "ts": "1700000000", "text": "héllo", "target": "x", "value": "4.5"},
        {"user_id": "bob", "event_id": None, "ts": "1700000000.25", "text": "a\0b", "target": None, "value": None},
        {"user_id": "bob", "event_id": "e1", "ts": None, "text": None, "target": None, "value": None, "op": "delete"},
    )
    columns = ["event_id", "user_key", "event_key", "content_key", "text_key", "target_key"]
    assert events.select(columns).rows() == GOLDEN


GOLDEN = [
    ("e1", 3159282601090220207, 358440321167027334, 5622670038304625764, 7657728615535385375, -1517593895512126191),
    (
        "h-9fd124615810952c3e62d9d8e0cf6bf5", -9100024591961372966, 1924072488318232846, -1542598165603373649,
        -3053320904733732015, None,
    ),
    ("e1", -9100024591961372966, 8703714718419838415, 6062015716751397306, None, None),
]  # fmt: skip


def test_a_task_counts_only_where_there_is_one() -> None:
    """Events and rejects of before there were tasks keep their keys, whether the source has the column or not."""
    plain = judge(GOOD, {**GOOD, "event_id": "e"})[0]
    for empty in (None, "", " \t"):
        events = judge({**GOOD, "task": empty}, {**GOOD, "event_id": "e", "task": empty})[0]
        assert events["task"].to_list() == [None, None]
        assert events.drop("task").equals(plain.drop("task"))
    named = judge(*({**GOOD, "task": task} for task in (" rating ", "rating", "headline", "12:rating")), {**GOOD, "target": "6:rating"})[0]
    assert named["task"].to_list() == ["rating", "rating", "headline", "12:rating", None]
    assert named["event_id"].n_unique() == named["content_key"].n_unique() == 4
    assert not set(named["content_key"]) & set(plain["content_key"])
    assert judge({**GOOD, "task": 5.0})[0]["task"].to_list() == ["5"]
    gone = judge({"user_id": "u", "event_id": "e", "op": "delete", "task": "x" * 99})[0]
    assert gone["task"].to_list() == [None]
    bad = {**GOOD, "text": ""}
    raws = judge(*({**bad, "task": task} for task in (None, " ", "rating")))[1]["raw"].to_list()
    assert raws == [*[judge(bad)[1]["raw"][0]] * 2, '{"user_id":"u","ts":"1700000000","text":"","task":"rating"}']


def test_unreadable_rows_are_rejects() -> None:
    bad = unreadable([(3, b"\xff" * (1 << 20), "not valid UTF-8")])
    events, rejects = validate(RawBatch("s", pl.DataFrame(schema={"line": pl.Int64}), bad), now=NOW, historical=False, run=1)
    assert not len(events)
    assert rejects.select("source", "line", "reason").rows() == [("s", 3, "not valid UTF-8")]
    assert rejects["raw"].str.len_bytes()[0] <= MAX_RAW_BYTES


def test_a_file_of_broken_rows(tmp_path: Path) -> None:
    """Each row of a file with everything wrong is an event or a reject at its line."""
    rows: list[tuple[bytes, str]] = [
        (json.dumps(GOOD).encode(), ""),
        (b'{"user_id": "u", "ts": 17000', "not valid JSON"),
        (b'{"ts": 1700000000, "text": "no user"}', "user_id is missing"),
        (b'{"user_id": null, "ts": 1700000000, "text": "x"}', "user_id is missing"),
        (b'{"user_id": "", "ts": 1700000000, "text": "x"}', "user_id is missing"),
        (b'{"user_id": NaN, "ts": 1700000000, "text": "x"}', "not valid JSON"),
        (b'{"user_id": "u", "ts": "NaN", "text": "x"}', "unreadable ts"),
        (b'{"user_id": "u", "ts": "1901-05-05", "text": "x"}', "ts is not after 1970-01-01"),
        (b'{"user_id": "u", "ts": "2999-05-05T00:00:00Z", "text": "x"}', "ts is in the future"),
        (b'{"user_id": 5, "ts": 1700000000000, "text": "milliseconds"}', ""),
        (b'{"user_id": "u", "ts": 1700000000000000, "text": "microseconds"}', ""),
        (b'{"user_id": "u", "ts": "2023-11-14", "text": "a date"}', ""),
        (b'{"user_id": "\xff", "ts": 1700000000, "text": "x"}', "not valid UTF-8"),
        (json.dumps({**GOOD, "text": "x" * 5_000_000}).encode(), "text is longer than"),
        (b'"just a string"', "not valid JSON"),
        (b'{"user_id": "u", "ts": 1700000000, "text": ""}', "text is missing"),
        (b'{"user_id": "u", "ts": 1700000000, "text": "x", "value": "bad"}', "unreadable value"),
    ]
    whole = b"".join(row + b"\n" for row, _ in rows)
    filler = b"".join(json.dumps({**GOOD, "text": f"{i * 7919 % 99991}"}).encode() + b"\n" for i in range(50_000))
    cut = gzip.compress(whole + filler)
    (tmp_path / "a.jsonl").write_bytes(whole)
    (tmp_path / "b.jsonl.gz").write_bytes(cut[: len(cut) * 3 // 4])
    for name in ("a.jsonl", "b.jsonl.gz"):
        read, good, reasons, damage = 0, set[int](), dict[int, str](), []
        for batch in TableSource([str(tmp_path / name)], {"value": "value"}).batches():
            events, rejects = validate(batch, now=NOW, historical=False, run=1)
            assert len(events) + len(rejects) == len(batch)
            read += len(batch)
            good |= set(events["line"])
            reasons |= dict(rejects.select("line", "reason").rows())
            damage += [batch.damaged] if batch.damaged else []
        for line, (_, reason) in enumerate(rows, 1):
            assert reasons[line].startswith(reason) if reason else line in good
        assert read == len(good) + len(reasons)
        if name == "a.jsonl":
            assert read == len(rows)
            assert not damage
        else:
            assert damage == ["truncated gzip"]
            assert reasons[read] == "the file ends in the middle of a row: truncated gzip"
