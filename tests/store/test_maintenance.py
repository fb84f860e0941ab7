"""Maintenance takes what nobody can need any more, and nothing else."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from lance.dataset import DatasetOptimizer

import store.maintenance as module
from schemas.config import MaintainConfig
from schemas.errors import ConflictError, HomeError, NotFoundError
from schemas.records import VersionRecord
from store import upkeep
from store.events import EventLog
from store.history import user_history
from store.home import Home, new_run
from store.lease import lease
from store.maintenance import maintain, survey
from store.models import Models
from store.purge import fence
from store.reader import Store
from store.states import States
from store.versions import promote, resolve, retired, rollback

Night = Callable[..., VersionRecord | None]
KEEP_ALL = MaintainConfig(grace_minutes=0)


def tuned(home: Home, config: MaintainConfig = KEEP_ALL) -> Home:
    home.__dict__["config"] = home.config.model_copy(update={"maintain": config})
    return home


def rows(count: int, night: int = 0) -> list[dict[str, Any]]:
    return [
        {"user_id": f"u{n % 5}", "event_id": f"{night}-{n}", "ts": 1_700_000_000 + night * 86_400 + n, "text": f"t{n}"}
        for n in range(count)
    ]


def states(home: Home, version: VersionRecord) -> pa.Table:
    return States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs)


def done(home: Home) -> list[str]:
    found = maintain(home)
    assert [reason for _, reason in found if reason] == []
    return [action.what for action, _ in found]


def test_a_tidy_home_needs_nothing(place: str, new_home: Callable[..., Home], put: Any, night: Night) -> None:
    home = tuned(new_home(place))
    put(home, rows(6))
    version = night(home)
    assert version
    done(home)
    assert survey(home) == []
    assert states(home, version).num_rows == 5


def test_unnamed_rows_go_and_the_rest_stays(place: str, new_home: Callable[..., Home], put: Any, night: Night, visible: Any) -> None:
    """What ingests and refreshes leave when they are killed before their record; a dry run changes nothing."""
    home = tuned(new_home(place))
    put(home, [*rows(6), {"user_id": "", "ts": 1, "text": "x"}])
    version = night(home)
    assert version
    before, kept, named = visible(home), states(home, version), home.ingests.last()
    table = States(home, version.aggregator, Models(home).spec(version.aggregator)).name
    dataset = home.tables.open("events")
    assert dataset is not None
    for tag in (new_run(1), new_run(2), 3 << 50):
        lost = (
            dataset.to_table()
            .set_column(dataset.schema.names.index("ingest"), "ingest", pa.array([tag] * dataset.count_rows()))
            .cast(dataset.schema)
        )
        home.tables.append("events", dataset.schema, iter(lost.to_batches()), home.tables.mark("events", dataset.schema))
    unnamed = home.tables.open(table).to_table()  # type: ignore[union-attr]
    unnamed = unnamed.set_column(2, "run", pa.array([7] * len(unnamed))).cast(unnamed.schema)
    home.tables.commit(table, home.tables.stage(table, unnamed, home.tables.mark(table, unnamed.schema)))
    home.tables.stage(table, unnamed, home.tables.mark(table, unnamed.schema))
    files = len(home.tables.files(table))
    seen = [action.what for action in survey(home)]
    assert seen[:2] == ["18 rows of events", f"5 rows of {table}"]
    assert f"1 files of {table}" in seen
    assert home.tables.open("events").count_rows() == 24  # type: ignore[union-attr]
    done(home)
    assert home.tables.open("events").count_rows() == 6  # type: ignore[union-attr]
    assert home.tables.open(table).count_rows() == 5  # type: ignore[union-attr]
    assert len(home.tables.files(table)) < files
    assert (visible(home), states(home, version)) == (before, kept)
    assert survey(home) == []
    # The rows for number 2 could still have become ingest 2: an empty record took it.
    assert home.ingests.last() == named + 1
    assert home.ingests.get(2).sources == ("maintain",)  # type: ignore[union-attr]
    assert night(home) is None


def test_a_living_ingest_keeps_its_rows(home: Home, put: Any) -> None:
    put(tuned(home), rows(3))
    dataset = home.tables.open("events")
    assert dataset is not None
    coming = dataset.to_table().set_column(dataset.schema.names.index("ingest"), "ingest", pa.array([new_run(2)] * 3)).cast(dataset.schema)
    with lease(home, "ingest-x", "an ingest"):
        home.tables.append("events", dataset.schema, iter(coming.to_batches()), home.tables.mark("events", dataset.schema))
        assert [a.what for a in survey(home) if "rows" in a.what] == []
    assert [a.what for a in survey(home) if "rows" in a.what] == ["3 rows of events"]


def test_a_plan_goes_once_its_line_has_moved_on(home: Home, put: Any, night: Night) -> None:
    from pipelines.refresh import Refresh

    put(tuned(home), rows(6))
    stopped = Refresh(Home(home.uri))
    folder, plan = stopped.plan()  # type: ignore[misc]
    stopped.encode(plan)
    stopped.update(folder, plan)
    done(home)
    assert home.objects.names("plans")
    version = night(home)
    assert version
    assert version.runs == (plan.run,)
    late = Refresh(Home(home.uri), full=True)
    folder, plan = late.plan()  # type: ignore[misc]
    late.encode(plan)
    late.update(folder, plan)
    put(home, rows(6, 1))
    assert night(home)
    assert any(action.what == folder for action in survey(home))
    done(home)
    assert home.objects.files("plans") == {}
    assert survey(home) == []
    assert not Path(home.uri, "plans").exists()


def test_retired_versions_are_folded(place: str, new_home: Callable[..., Home], put: Any, night: Night) -> None:
    """Old versions lose their superseded rows; kept ones read the same, bit for bit; reading a retired one names the nearest."""
    home = tuned(new_home(place), MaintainConfig(keep_versions=2, keep_days=0, grace_minutes=0))
    versions = []
    for number in range(5):
        put(home, rows(4, number), name=f"{number}.jsonl")
        versions.append(night(home))
    promote(home, 2, expected=None, reason="test")
    kept = {v.number: states(home, v) for v in versions if v}
    table = States(home, versions[0].aggregator, Models(home).spec(versions[0].aggregator)).name  # type: ignore[union-attr]
    before = home.tables.open(table).count_rows()  # type: ignore[union-attr]
    assert before == 20
    assert [a.what for a in survey(home) if a.what.startswith("version")] == ["version 1", "version 3"]
    done(home)
    assert retired(home) == {1, 3}
    # Four users a night; versions 1 and 3 alone read the rows of nights 1 and 3.
    assert home.tables.open(table).count_rows() == 12  # type: ignore[union-attr]
    for number in (2, 4, 5):
        assert states(home, resolve(home, number)).equals(kept[number])
    with pytest.raises(NotFoundError, match="version 3 was retired") as gone:
        resolve(home, 3)
    assert "nearest version that is kept, 2" in gone.value.mend
    with pytest.raises(NotFoundError, match="version 3 was retired"):
        resolve(home, versions[2].created_at.isoformat())  # type: ignore[union-attr]
    assert [entry.version for entry in user_history(home, "u1")] == [2, 4, 5]
    assert Store(home.uri).versions()["number"].to_list() == [2, 4, 5]
    assert survey(home) == []
    put(home, rows(4, 9), name="9.jsonl")
    assert night(home).parent == 5  # type: ignore[union-attr]


def test_a_version_named_meanwhile_is_kept(home: Home, put: Any, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned(home, MaintainConfig(keep_versions=1, keep_days=0))
    for number in range(3):
        put(home, rows(4, number))
        night(home)
    retiring = next(a for a in survey(home) if a.what == "version 1")
    promote(home, 1, expected=None, reason="just now")
    retiring.act()
    assert retired(home) == set()
    promote(home, 2, expected=1, reason="newer")
    retiring.act()
    assert retired(home) == set(), "a rollback would need it"
    assert rollback(home, reason="odd answers").version == 1
    promote(home, 2, expected=1, reason="mended")
    promote(home, 3, expected=2, reason="newest")
    retiring.act()
    assert retired(home) == {1}
    with pytest.raises((NotFoundError, ConflictError), match="retired"):
        promote(home, 1, expected=3, reason="too late")


def test_rows_that_were_appended_twice_are_folded(home: Home, put: Any, night: Night) -> None:
    put(tuned(home), rows(6))
    version = night(home)
    assert version
    kept = states(home, version)
    table = States(home, version.aggregator, Models(home).spec(version.aggregator)).name
    again = home.tables.open(table).to_table()  # type: ignore[union-attr]
    home.tables.commit(table, home.tables.stage(table, again, home.tables.mark(table, again.schema)))
    assert states(home, version).equals(kept)
    done(home)
    assert home.tables.open(table).count_rows() == 5  # type: ignore[union-attr]
    assert states(home, version).equals(kept)


def test_rows_moved_meanwhile_are_not_deleted_by_their_old_ids(home: Home) -> None:
    schema = pa.schema([("n", pa.int64())])
    for start in range(0, 40, 10):
        home.tables.append("t", schema, iter([pa.record_batch({"n": range(start, start + 10)}, schema)]), home.tables.mark("t", schema))
    upkeep.delete(home.tables, "t", pc.field("n") < 5)
    stale = home.tables.open("t")
    assert stale is not None
    ids = stale.to_table(columns=["n"], filter="n = 15", with_row_id=True)["_rowid"].to_numpy()
    upkeep.compact(home.tables, "t")
    with pytest.raises(ConflictError):
        upkeep.delete_rows(home.tables, "t", stale, ids)
    assert home.tables.open("t").count_rows() == 35  # type: ignore[union-attr]


@pytest.mark.parametrize("fenced", [True, False])
def test_a_compaction_whose_files_an_erasure_took_is_put_off(home: Home, put: Any, monkeypatch: pytest.MonkeyPatch, fenced: bool) -> None:
    put(tuned(home), rows(3))

    def torn(*_: Any, **__: Any) -> None:
        if fenced:
            fence(home.tables, "events")
        raise OSError("LanceError(IO): failed to persist temp file to data/x.lance: No such file or directory (os error 2)")

    monkeypatch.setattr(DatasetOptimizer, "compact_files", torn)
    with pytest.raises(ConflictError if fenced else HomeError, match="events"):
        upkeep.compact(home.tables, "events")


def test_files_are_left_alone_while_somebody_works(home: Home) -> None:
    table = pa.table({"n": [1]})
    home.tables.stage("t", table, home.tables.mark("t", table.schema))
    with lease(home, "refresh-x", "work"):
        assert survey(tuned(home)) == []
    assert [a.what for a in survey(home)] == ["1 files of t"]
    done(home)
    assert not [path for path in home.tables.files("t") if path.startswith("data/")]


@pytest.mark.parametrize("seen", ["tracked_files", "explain_cleanup_old_versions"])
def test_a_survey_outlives_a_cleaning_beside_it(home: Home, put: Any, monkeypatch: pytest.MonkeyPatch, seen: str) -> None:
    """Lance lists versions and then reads each; an erasure removes them between the two."""
    put(tuned(home), rows(3))
    put(home, rows(3, 1))
    before, look, missed = [a.what for a in survey(home)], getattr(lance.LanceDataset, seen), []

    def raced(self: lance.LanceDataset, *args: Any, **options: Any) -> Any:
        if not missed:
            lance.dataset(self.uri).cleanup_old_versions(older_than=timedelta(0))
            missed.append(self.uri)
            raise OSError(f"Not found: {self.uri}/_versions/18446744073709551614.manifest, manifest.rs:52:15")
        return look(self, *args, **options)

    monkeypatch.setattr(lance.LanceDataset, seen, raced)
    after = [a.what for a in survey(home)]
    assert missed
    assert set(after) <= set(before)


def test_a_folder_that_a_killed_planner_left_goes(home: Home, put: Any, night: Night) -> None:
    put(tuned(home), rows(3))
    assert night(home)
    done(home)
    for name, file in (("empty", None), ("half", "plan.json#1")):
        folder = Path(home.uri, "plans", name)
        folder.mkdir(parents=True)
        if file:
            (folder / file).write_text("{")
    assert {a.what for a in survey(home)} == {"plans/empty", "plans/half", "plans/half/plan.json#1"}
    done(home)
    assert survey(home) == []


def test_indices_are_read_by(home: Home, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads by key go through the index; they find the same."""
    monkeypatch.setattr(module, "INDEX_ROWS", 0)
    put(tuned(home), rows(200))
    log = EventLog(home)
    keys = home.tables.open("events").to_table(columns=["event_key"])["event_key"].to_pylist()[:7]  # type: ignore[union-attr]
    before = log.lookup(keys, 1).sort("event_key")
    assert "indices of events" in done(home)
    dataset = home.tables.open("events")
    assert dataset is not None
    for column in ("event_key", "user_key", "ingest"):
        plan = dataset.scanner(columns=["user_id"], filter=pc.field(column).isin(pa.array([keys[0]]))).explain_plan()
        assert "ScalarIndexQuery" in plan, column
    assert log.lookup(keys, 1).sort("event_key").equals(before)
    put(home, rows(200, 1))
    assert len(log.lookup(keys, 2)) == 7
    done(home)
    assert len(log.lookup(keys, 2)) == 7
    assert survey(home) == []


@pytest.mark.parametrize("few", [0, 1_000], ids=["by a pass", "by filter"])
def test_a_reader_outlives_compaction(home: Home, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """A table opened before its files went is read again from the newest version; so is one in which keys are looked up."""
    monkeypatch.setattr("store.rows.FEW", few)
    schema = pa.schema([("n", pa.int64())])
    for start in range(0, 40, 10):
        home.tables.append("t", schema, iter([pa.record_batch({"n": range(start, start + 10)}, schema)]), home.tables.mark("t", schema))
    upkeep.delete(home.tables, "t", pc.field("n") == 5)
    whole, keys = [n for n in range(40) if n != 5], np.array([3, 5, 6, 39, 99])
    assert home.tables.find("t", schema, ["n"], {"n": keys})["n"].to_pylist() == [3, 6, 39]
    old = [lance.dataset(f"{home.tables.uri}/t.lance") for _ in range(2)]
    upkeep.compact(home.tables, "t")
    upkeep.clean(home.tables, "t", timedelta(0))
    real = home.tables.open
    for read, wanted in (
        (lambda: home.tables.read("t", schema, ["n"]), whole),
        (lambda: home.tables.find("t", schema, ["n"], {"n": keys}), [3, 6, 39]),
    ):
        first = [old.pop()]
        home.tables.open = lambda name, first=first: first.pop() if first else real(name)  # type: ignore[method-assign, misc]
        assert read()["n"].to_pylist() == wanted
        assert not first


def test_old_bundles_go(home: Home, put: Any, night: Night) -> None:
    tuned(home, MaintainConfig(keep_bundles=2, grace_minutes=0))
    put(home, rows(4))
    night(home)
    for number in (1, 2, 3, 4, 5):
        home.objects.put(f"bundles/v{number}-abc/manifest.json", json.dumps({}).encode())
    home.objects.put("bundles/v6-abc/states/0.arrow", b"no manifest yet")
    home.objects.put("bundles/.building-x/states/0.arrow", b"x")
    home.objects.put("bundles/CURRENT", b"v3-abc")
    promote(home, 1, expected=None, reason="test")
    done(home)
    assert home.objects.names("bundles") == ["CURRENT", "v1-abc", "v3-abc", "v4-abc", "v5-abc"]


def test_an_index_that_no_read_uses_goes(home: Home) -> None:
    """Homes of older releases have some on their states."""
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    rows = pa.record_batch([pa.array(range(10), pa.int64())], schema=schema)
    home.tables.append("t", schema, iter([rows]), home.tables.mark("t", schema))
    upkeep.index(home.tables, "t", ["n"])
    before = home.tables.open("t")
    assert before is not None
    assert upkeep.indexed(before) == {"n"}
    (action,) = [action for action in survey(home) if action.what == "indices of t that are left over"]
    action.act()
    after = home.tables.open("t")
    assert after is not None
    assert not upkeep.indexed(after)
