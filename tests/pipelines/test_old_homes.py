"""Homes that earlier releases wrote (tests/homes) open, read, refresh and bundle with this one."""

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.encoder import KnownEncoder
from pipelines.erase import Erasure
from pipelines.examples import read_events
from pipelines.fit import fit
from pipelines.publish import publish
from schemas.config import LLMConfig
from schemas.errors import CompatibilityError, CorruptError
from schemas.records import IngestRecord, VersionRecord
from store import open_store
from store.client import Bundle
from store.events import EventLog
from store.home import Home
from store.lines import Lines
from store.versions import current, promote, rollback

HOMES = sorted((Path(__file__).parents[1] / "homes").glob("home-*.tar.xz"))


@pytest.fixture(params=HOMES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """14 users, ten days of events, a trained line of two versions; production names the second, which has a bundle."""
    with tarfile.open(request.param) as archive:
        # Python before 3.11.4 knows no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    config = tmp_path / "home" / "config.toml"
    config.write_text(re.sub(r'(\[encoder\].*\nmodel = )"[^"]*"', rf'\1"{tmp_path / "encoder"}"', config.read_text()))
    return Home(str(tmp_path / "home"))


def test_it_is_small() -> None:
    assert HOMES
    assert all(path.stat().st_size <= 200_000 for path in HOMES)


def test_read(old: Home) -> None:
    store = open_store(old.uri)
    version = store.version()
    assert (version.number, len(version), version.record.events, version.record.parent) == (2, 14, 140, 1)
    user = "user 3"
    assert version.states([user], ["event_count"]).to_pylist() == [{"event_count": 10}]
    assert len(store.events([user])) == 10
    assert store.version(1).states([user], ["event_count"]).to_pylist() == [{"event_count": 9}]
    assert store.version(1).compare(version).moved == 14
    assert store.version(version.record.created_at).number in (1, 2)
    with pytest.raises(CorruptError, match="tapstate bundle"):
        Bundle.open(f"{old.uri}/bundles")
    uri, _ = publish(old, version.record, KnownEncoder(old, Lines(old).encoder(version.record.aggregator)))
    answer = Bundle.open(uri).prefix([user, "nobody"], ["item 1", "item 1"])
    assert answer.status == ["known", "unknown"]
    assert np.isfinite(answer.prefix).all()


def test_its_events_take_tasks(old: Home, put: Callable[..., IngestRecord], night: Callable[..., VersionRecord]) -> None:
    """Its table lacks the column: readers see none, the first ingest adds it, and what was there keeps its keys and its place."""
    log = EventLog(old)
    table = old.tables.open("events")
    assert table is not None
    before, files = read_events(log, old.config, old.ingests.last()), old.tables.files("events")
    assert "task" not in table.schema.names
    assert before["task"].null_count() == len(before) == 140
    assert open_store(old.uri).events(["user 3"])["task"].to_list() == [None] * 10
    assert open_store(old.uri).sql("SELECT count(*) AS n FROM events WHERE task IS NULL")["n"].to_list() == [140]
    assert old.tables.files("events") == files
    # Told again without their ids, they are known by what they say, as ever.
    told = [{"user_id": r["user_id"], "ts": r["ts"], "text": r["text"], "target": r["target"]} for r in before.iter_rows(named=True)]
    record = put(old, told, name="again.jsonl")
    assert (record.duplicate, record.accepted) == (140, 0)
    tasked = [
        {"user_id": f"user {user}", "ts": f"2023-12-0{day}", "text": f"item {user}", "target": "b", "task": task}
        for user in range(14)
        for day, task in ((1, "letter"), (2, "digit"))
    ]
    assert put(old, tasked, name="tasks.jsonl").accepted == 28
    data = {path for path in set(old.tables.files("events")) - set(files) if path.startswith("data/")}
    assert len(data) == 1, "no file was written for the column"
    now = read_events(log, old.config, old.ingests.last())
    assert dict(now["task"].value_counts().iter_rows()) == {None: 140, "digit": 14, "letter": 14}
    version = night(old)
    assert (version.users, version.users_changed, version.events) == (14, 14, 168)
    config = old.config.model_copy(update={"llm": LLMConfig(), "train": old.config.train.model_copy(update={"llm_steps": 2})})
    fitted = fit(old, config)
    assert set(fitted.metrics["tasks"]) <= {"digit", "letter"}
    trained = night(old)
    uri, manifest = publish(old, trained, KnownEncoder(old, Lines(old).encoder(trained.aggregator)))
    assert manifest["tasks"] == ["digit", "letter"]
    bundle = Bundle.open(uri)
    bundle.verify()
    assert np.isfinite(bundle.static_prefix(["user 3"], task="letter").prefix).all()
    receipt = Erasure(old, ["user 3"]).erase("asked for")
    assert receipt.proof.hits == ()
    assert read_events(log, old.config, old.ingests.last())["task"].null_count() == 130


def test_refresh_and_go_on(old: Home, put: Callable[..., object], night: Callable[..., VersionRecord]) -> None:
    put(
        old,
        [{"user_id": "user 3", "ts": "2023-12-01", "text": "item 7", "target": "b"}, {"user_id": "new", "ts": "2023-12-01", "text": "x"}],
    )
    version = night(old)
    assert (version.number, version.parent, version.users, version.users_changed, version.trained) == (3, 2, 15, 2, True)
    assert {check.name for check in version.checks} >= {"coverage", "zero_states", "prefix_ratio"}
    assert all(check.passed for check in version.checks)
    rebuilt = night(old, full=True)
    spec = open_store(old.uri).version(3).spec
    tables = [open_store(old.uri).version(n).to_arrow() for n in (3, rebuilt.number)]
    np.testing.assert_allclose(spec.vectors(tables[0]), spec.vectors(tables[1]), atol=1e-5)
    promote(old, 3, expected=2, reason="test")
    assert rollback(old, reason="test").version == current(old, "production") == 2
    encoder = KnownEncoder(old, Lines(old).encoder(version.aggregator))
    uri, manifest = publish(old, version, encoder)
    assert (Bundle.open(uri).manifest["version"], manifest["users"]) == (3, 15)
    with pytest.raises(CompatibilityError) as caught:
        publish(old, version.model_copy(update={"encoder": "f" * 64}), encoder)
    assert "ffffffffffff" in str(caught.value)
    assert encoder.fingerprint[:12] in str(caught.value)
