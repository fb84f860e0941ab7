"""Ingest adds what is new, once, whoever else is writing and whenever it is killed."""

import json
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.ingest import ingest, new_revisions
from pipelines.meter import Silent
from pipelines.sources.table import TableSource
from schemas.errors import CorruptError
from schemas.records import IngestRecord
from store.events import EventLog
from store.home import Home

Put = Callable[..., IngestRecord]
Spawn = Callable[..., subprocess.Popen[str]]
COUNTS = ("read", "accepted", "duplicate", "corrected", "rejected")


def row(text: str, event: str | None = "e", user: str = "u", **more: object) -> dict[str, object]:
    return {"user_id": user, "event_id": event, "ts": 1_700_000_000, "text": text, **more}


def counts(record: IngestRecord) -> tuple[int, ...]:
    return tuple(getattr(record, name) for name in COUNTS)


def texts(home: Home) -> list[tuple[int, str | None]]:
    """Revisions and texts of the one event."""
    return sorted(pl.concat(EventLog(home).scan(["revision", "text"], after=0, until=home.ingests.last())).rows())


def test_the_same_file_twice(home: Home, put: Put, visible: Callable[[Home], Any]) -> None:
    rows = [row("one"), row("no id", None), row("", "bad"), row("one"), row("two", "f", target="t", value=1.5), row("", "bad too")]
    assert counts(put(home, rows)) == (6, 3, 1, 0, 2)
    first = visible(home)
    assert counts(put(home, rows)) == (6, 0, 4, 0, 2)
    assert visible(home) == first
    assert [len(part) for part in first] == [3, 2]
    assert counts(put(home, rows, historical=False)) == (6, 0, 4, 0, 2)
    assert visible(home) == first


class Cleaner(Silent):
    """Deletes temporary files once everything is read, as a zealous cleaner of /tmp may."""

    def finish(self, name: str) -> None:
        if name == "read":
            for file in Path(tempfile.gettempdir()).glob("tapstate-work-*/events-*"):
                file.unlink()


def test_rows_that_went_missing_are_not_passed_over(
    home: Home, put: Put, visible: Callable[[Home], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"user_id": "u", "ts": 1_700_000_000, "text": "x"}) + "\n")
    with pytest.raises(CorruptError, match="1 rows were read, but only 0 are accounted for"):
        ingest(home, TableSource([str(file)]), historical=True, meter=Cleaner())
    assert home.ingests.last() == 0
    assert ingest(home, TableSource([str(file)]), historical=True)[0].accepted == 1


def test_rejects_of_other_lines_are_kept(home: Home, put: Put, visible: Callable[[Home], Any]) -> None:
    put(home, [row("")], name="a.jsonl")
    put(home, [row("fine"), row("")], name="a.jsonl")
    put(home, [row("")], name="b.jsonl")
    rejects = visible(home)[1]
    assert sorted((Path(source).name, line) for source, line, *_ in rejects) == [("a.jsonl", 1), ("a.jsonl", 2), ("b.jsonl", 1)]


def test_corrections_and_deletes(home: Home, put: Put) -> None:
    delete = {"user_id": "u", "event_id": "e", "op": "delete"}
    assert counts(put(home, [row("a")])) == (1, 1, 0, 0, 0)
    assert counts(put(home, [row("b"), row("b")])) == (2, 0, 1, 1, 0)
    assert counts(put(home, [delete])) == (1, 0, 0, 1, 0)
    assert counts(put(home, [delete, row("a")])) == (2, 0, 2, 0, 0)
    assert texts(home) == [(1, "a"), (2, "b"), (3, None)]
    assert EventLog(home).current(["text"], after=0, until=4).is_empty()


def test_there_and_back_without_stated_times(home: Home, put: Put) -> None:
    """The file that said A, read again, takes no correction back."""
    put(home, [row("A")], historical=False)
    put(home, [row("B")], historical=False)
    assert counts(put(home, [row("A")], historical=False)) == (1, 0, 1, 0, 0)
    assert texts(home) == [(1, "A"), (2, "B")]


@pytest.mark.parametrize("together", [False, True])
def test_there_and_back_with_stated_times(home: Home, put: Put, together: bool) -> None:
    rows = [row(text, known_at=f"2024-01-0{day}") for day, text in enumerate("ABA", 1)]
    for _ in range(2):
        for batch in [rows] if together else [[r] for r in rows]:
            put(home, batch)
        assert texts(home) == [(1, "A"), (2, "B"), (3, "A")]
    assert counts(put(home, [row("B", known_at="2024-01-02"), row("A", known_at="2024-01-09")])) == (2, 0, 2, 0, 0)


def test_users_share_event_ids(home: Home, put: Put) -> None:
    assert counts(put(home, [row("A"), row("B", user="v")])) == (2, 2, 0, 0, 0)


# The rule, in plain Python

Held = list[tuple[str, int]]
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def reference(held: Held, rows: Sequence[tuple[str, int | None]]) -> Held:
    """What rows (content, stated time or None: now) add to what is held of their event."""
    held = list(held)
    for content, known in sorted(rows, key=lambda r: NOW if r[1] is None else r[1]):
        back = known is not None and known > max((k for _, k in held), default=-1)
        seen = any(c == content for c, _ in held)
        if not held or (content != held[-1][0] and (not seen or back)):
            held.append((content, NOW if known is None else known))
    return held


NOW = 50


def frame(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    times = [T0 + timedelta(seconds=int(r["known"])) for r in rows]  # type: ignore[call-overload]
    data = {name: [r[name] for r in rows] for name in ("user_id", "event_id", "content_key", "revision", "known_given")}
    schema = {"user_id": pl.String, "event_id": pl.String, "content_key": pl.Int64, "revision": pl.Int32, "known_given": pl.Boolean}
    rows = pl.DataFrame(data, schema=schema).with_columns(pl.Series("known_at", times, dtype=pl.Datetime("us", "UTC")))
    # Two of the three events share a key, as two events may.
    return rows.with_columns(event_key=pl.col("event_id").replace_strict({"e": 1, "f": 1, "g": 2}, return_dtype=pl.Int64))


def apply(held: dict[str, Held], rows: Sequence[tuple[str, str, int | None]]) -> dict[str, Held]:
    """``new_revisions`` over plain data."""
    existing = frame(
        [
            {"user_id": "u", "event_id": event, "content_key": ord(c), "revision": n, "known_given": True, "known": k}
            for event, revisions in held.items()
            for n, (c, k) in enumerate(revisions, 1)
        ]
    )
    new = frame(
        [
            {
                "user_id": "u",
                "event_id": e,
                "content_key": ord(c),
                "revision": 0,
                "known_given": k is not None,
                "known": NOW if k is None else k,
            }
            for e, c, k in rows
        ]
    )
    fresh = new_revisions(new.drop("revision"), existing.drop("known_given"))
    assert fresh.columns == [*new.drop("revision").columns, "revision"]
    result = {event: list(revisions) for event, revisions in held.items()}
    for event, content, known, revision in fresh.sort("revision").select("event_id", "content_key", "known_at", "revision").rows():
        into = result.setdefault(event, [])
        assert revision == len(into) + 1
        into.append((chr(content), int((known - T0).total_seconds())))
    return result


FILES = st.lists(
    st.lists(st.tuples(st.sampled_from("efg"), st.sampled_from("ABC"), st.one_of(st.none(), st.integers(0, 9))), max_size=7),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=400)
@example([[("e", "A", 1), ("e", "A", 7), ("e", "B", 3)]])
@example([[("e", "A", 1), ("e", "B", 9), ("e", "A", 5), ("e", "C", 2)]])
@example([[("e", "A", 1), ("e", "B", 2), ("e", "A", 3)], [("e", "B", 2), ("e", "A", 5)]])
@given(FILES)
def test_new_revisions_is_the_rule(files: list[list[tuple[str, str, int | None]]]) -> None:
    held: dict[str, Held] = {}
    for rows in files:
        expected = {
            event: reference(held.get(event, []), [(c, k) for e, c, k in rows if e == event])
            for event in held.keys() | {e for e, _, _ in rows}
        }
        held = apply(held, rows)
        assert held == expected
        assert apply(held, rows) == held, "the same file again adds nothing"


# Real processes

FILE_ROWS = 120_000


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.jsonl"
    with path.open("w") as out:
        for i in range(FILE_ROWS):
            out.write(json.dumps(row(f"text {i % 500}" if i % 50 else "", f"e{i}", f"u{i % 977}", ts=1_600_000_000 + i)) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["read", "append", "record"])
def test_killed_and_run_again(
    stage: str, large_file: Path, new_home: Callable[..., Home], visible: Callable[[Home], Any], spawn: Spawn
) -> None:
    """Killed while it reads, when its rows are appended and before its record is written: run again, the tables are the same."""
    calm, hit = new_home("calm"), new_home("hit")
    undisturbed, _ = ingest(calm, TableSource([str(large_file)]), historical=True)
    command = ["-m", "flows.cli", "--home", hit.uri, "ingest", "table", str(large_file), "--historical", "--output", "json"]
    halt, call = {
        "read": ("pipelines.ingest._spool", 2),
        "append": ("pipelines.ingest._append_rejects", 1),
        "record": ("store.records.Ledger.append", 1),
    }[stage]
    owner, _, name = halt.rpartition(".")
    code = f"""
import os, pkgutil, signal, sys
owner, calls = pkgutil.resolve_name({owner!r}), []
real = getattr(owner, {name!r})
def halt(*arguments):
    calls.append(arguments)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(owner, {name!r}, halt)
sys.argv = ["tapstate", *{command[2:]!r}]
from flows.cli import main
main()
"""
    process = spawn("-c", code)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert Home(hit.uri).ingests.last() == 0
    assert visible(Home(hit.uri)) == ([], [])
    again = spawn(*command)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert json.loads(out) == {name: getattr(undisturbed, name) for name in COUNTS}
    assert visible(Home(hit.uri)) == visible(calm)


@pytest.mark.slow
def test_two_at_once(large_file: Path, new_home: Callable[..., Home], visible: Callable[[Home], Any], spawn: Spawn, tmp_path: Path) -> None:
    """Overlapping files into one home: what both hold counts once."""
    lines = large_file.read_text().splitlines(keepends=True)[:30_000]
    (tmp_path / "a.jsonl").write_text("".join(lines[:20_000]))
    (tmp_path / "b.jsonl").write_text("".join(lines[10_000:]))
    together, apart = new_home("together"), new_home("apart")
    command = ["-m", "flows.cli", "--home", together.uri, "ingest", "table"]
    both = [spawn(*command, str(tmp_path / name), "--historical", "-o", "json") for name in ("a.jsonl", "b.jsonl")]
    found = []
    for process in both:
        out, err = process.communicate()
        assert process.returncode == 0, err
        found.append(json.loads(out))
    for name in ("a.jsonl", "b.jsonl"):
        ingest(apart, TableSource([str(tmp_path / name)]), historical=True)
    assert visible(Home(together.uri))[0] == visible(apart)[0]
    assert sum(f["accepted"] for f in found) == len(visible(apart)[0])
    assert sum(f["duplicate"] for f in found) == len([line for line in lines[10_000:20_000] if '"text": ""' not in line])
    for f in found:
        assert f["read"] == 20_000 == f["accepted"] + f["duplicate"] + f["corrected"] + f["rejected"]
    assert Home(together.uri).ingests.last() == 2
