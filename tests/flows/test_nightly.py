"""The night under real Prefect, and what it costs in memory."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from schemas.errors import CheckError, InputError
from schemas.records import IngestRecord
from store.home import Home
from store.lines import Lines
from store.models import Models
from store.versions import current, promote, rollback

Put = Callable[..., IngestRecord]
SUMMARY = ["version", "parent", "users", "users_changed", "events_new", "texts_encoded", "cache_hits", "seconds", "promoted"]
PEAK = """
import json, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.table import TableSource
from schemas.config import parse
from store.home import Home

where, config, users = sys.argv[1], sys.argv[2], int(sys.argv[3])
home, _ = Home.create(where, parse(Path(config).read_text()))
file = Path(where) / "events.jsonl"
with file.open("w") as out:
    for user in range(users):
        for i in range(5):
            out.write(json.dumps({"user_id": f"u{user}", "ts": 1700000000 + i, "text": f"t {(user + i) % 50}"}) + "\\n")
if sys.argv[4] == "refresh":
    refresh = Refresh(home)
    folder, plan = refresh.plan()
    refresh.commit(folder, plan, refresh.encode(plan), refresh.update(folder, plan), datetime.now(UTC))
else:
    ingest(home, TableSource([str(file)]), historical=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        for name, value in {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_LOGGING_LEVEL": "ERROR"}.items():
            patch.setenv(name, value)
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            yield


def rows(users: int, text: str = "t") -> list[dict[str, Any]]:
    return [{"user_id": f"u{user}", "ts": 1_700_000_000 + i, "text": f"{text} {i}"} for user in range(users) for i in range(3)]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_nights(home: Home, put: Put) -> None:
    from flows.nightly import nightly

    put(home, rows(10))
    first = nightly(home.uri)
    assert list(first) == SUMMARY
    assert {k: v for k, v in first.items() if k != "seconds"} == {
        "version": 1, "parent": None, "users": 10, "users_changed": 10, "events_new": 30, "texts_encoded": 3,
        "cache_hits": 0, "promoted": True,
    }  # fmt: skip
    quiet = nightly(home.uri)
    assert list(quiet) == SUMMARY
    assert (quiet["version"], quiet["users"], quiet["users_changed"], quiet["events_new"], quiet["promoted"]) == (1, 10, 0, 0, True)
    put(home, [{**rows(1)[0], "event_id": "x", "user_id": "new"}])
    second = nightly(home.uri)
    assert (second["version"], second["parent"], second["users"], second["promoted"]) == (2, 1, 11, True)
    assert current(home, "production") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_failed_check_keeps_the_version_back(home: Home, put: Put) -> None:
    from flows.nightly import nightly

    put(home, [{**row, "event_id": f"e{n}"} for n, row in enumerate(rows(10))])
    nightly(home.uri)
    gone = [{"user_id": row["user_id"], "event_id": f"e{n}", "op": "delete"} for n, row in enumerate(rows(10)) if row["user_id"] < "u5"]
    put(home, gone)
    with pytest.raises(CheckError, match=r"version 2 is kept but not promoted: coverage is 0\.5, the line is 0\.95"):
        nightly(home.uri)
    assert Home(home.uri).versions.last() == 2
    assert current(home, "production") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_report_that_fails_undoes_no_night(home: Home, put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    """No page can be written where a file is in the way; the version is promoted all the same, and a quiet night makes up for it."""
    from prefect.artifacts import Artifact

    from flows.nightly import nightly

    put(home, rows(10))
    blocked = Path(home.uri) / "reports"
    blocked.write_text("in the way")
    assert nightly(home.uri)["promoted"]
    assert current(home, "production") == 1
    assert "mend: tapstate report 1" in capsys.readouterr().err
    blocked.unlink()
    assert nightly(home.uri)["users_changed"] == 0
    page = blocked / "1.html"
    assert "<h1>Version" in page.read_text()
    assert "tapstate report 1" not in capsys.readouterr().err
    told = str(getattr(Artifact.get("report"), "data", ""))
    assert f"`{page}`" in told
    assert "Read 30 rows = 30 accepted" in told


@pytest.mark.slow
def test_memory_stays_flat(home: Home, tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    """Four times the users, the same peak within 1.5 times."""
    config = Path(home.uri) / "config.toml"
    config.write_text(config.read_text().replace("shard_events = 64 ", "shard_events = 8192 "))
    peaks = []
    for users in (5_000, 20_000):
        for step in ("ingest", "refresh"):
            process = spawn("-c", PEAK, str(tmp_path / str(users)), str(config), str(users), step, OMP_NUM_THREADS="1")
            out, err = process.communicate()
            assert process.returncode == 0, err
        peaks.append(int(out))
    assert peaks[1] <= 1.5 * peaks[0], json.dumps({"peaks_kib": peaks, "cpus": os.cpu_count()})
    assert Home(str(tmp_path / "20000")).versions.get(1).users == 20_000  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_candidate_is_refreshed_beside_production(home: Home, put: Put, tiny_encoder: Path) -> None:
    """Two lines with encoders of their own: each night makes a version of both, until the candidate is promoted."""
    from encoders.checkpoint import pack_aggregator
    from encoders.registry import new_aggregator
    from encoders.text import TextEncoder
    from flows.nightly import nightly

    hashes = []
    for seed, tokens in ((1, 32), (2, 16)):
        config = home.config.encoder.model_copy(update={"max_tokens": tokens})
        encoder = TextEncoder(config)
        aggregator = new_aggregator(home.config.model_copy(update={"seed": seed}), encoder.dim)
        name, files = pack_aggregator(aggregator, encoder.fingerprint, trained=True)
        Models(home).save(name, files)
        hashes.append((name, config))
    (old, _), (new, _) = hashes
    Lines(home).open(*hashes[0], reason="first")
    put(home, rows(10))
    assert nightly(home.uri)["promoted"]
    Lines(home).open(*hashes[1], reason="shorter texts")
    both = nightly(home.uri)
    assert (both["version"], both["promoted"], both["users_changed"]) == (1, True, 0)
    assert (both["candidate"]["version"], both["candidate"]["promoted"], both["candidate"]["users"]) == (2, False, 10)
    put(home, [{"user_id": "new", "ts": 1_700_000_000, "text": "x"}])
    both = nightly(home.uri)
    assert (both["version"], both["parent"], both["candidate"]["version"], both["candidate"]["parent"]) == (3, 1, 4, 2)
    assert (current(home, "production"), current(home, "candidate")) == (3, 4)
    assert [record.aggregator for record in home.versions.all()] == [old, new, old, new]
    assert len({record.encoder for record in home.versions.all()}) == 2
    promote(home, 4, expected=3, reason="better")
    put(home, [{"user_id": "newer", "ts": 1_700_000_000, "text": "x"}])
    one = nightly(home.uri)
    assert (list(one), one["version"], one["parent"], one["promoted"]) == (SUMMARY, 5, 4, True)
    # A rollback holds until somebody promotes; both lines live again.
    rollback(home, reason="worse after all")
    put(home, [{"user_id": "newest", "ts": 1_700_000_000, "text": "x"}])
    held = nightly(home.uri, line="production")
    assert (held["version"], held["promoted"], current(home, "production")) == (6, False, 4)


def days(tmp_path: Path, *names: str) -> str:
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"user_id": f"u{name}", "ts": name, "text": "t"}) + "\n")
    return str(tmp_path / "{day}.jsonl")


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_backfill_takes_each_day_once(home: Home, tmp_path: Path) -> None:
    from flows.backfill import backfill

    files = days(tmp_path, "2024-02-28", "2024-02-29", "2024-03-02")
    with pytest.raises(InputError, match="1 of 4 days could not be read whole; the others count") as error:
        backfill(home.uri, files, date(2024, 2, 28), date(2024, 3, 2), historical=True)
    assert "2024-03-01: no such file" in error.value.where
    assert (home.ingests.last(), home.versions.last()) == (3, 0)
    days(tmp_path, "2024-03-01")
    done = backfill(home.uri, files, "2024-02-29", "2024-03-02", historical=True)
    assert (done["days"], done["read"], done["accepted"], done["duplicate"]) == (3, 3, 1, 2)
    assert (done["night"]["version"], done["night"]["users"], done["night"]["promoted"]) == (1, 4, True)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_night_is_told_under_its_own_run_id(home: Home, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a fault of one of its stages that passes costs one more try."""
    from prefect.client.orchestration import get_client

    from flows import nightly as module

    log = tmp_path / "lineage.jsonl"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT", json.dumps({"type": "file", "log_file_path": str(log), "append": True}))
    tries, promote = [], module._promote

    def shaky(*given: Any) -> bool:
        tries.append(given)
        if len(tries) == 1:
            raise OSError("the network blinked")
        return promote(*given)

    monkeypatch.setattr(module, "_promote", shaky)
    put(home, [{"user_id": "alice-of-the-events", "ts": 1_700_000_000 + n, "text": f"t {n}"} for n in range(3)])
    assert module.nightly(home.uri)["promoted"]
    assert len(tries) == 2
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(event["job"]["name"], event["eventType"]) for event in told] == [
        ("nightly", "START"), ("refresh", "START"), ("refresh", "COMPLETE"), ("nightly", "COMPLETE"),
    ]  # fmt: skip
    run_id = told[0]["run"]["runId"]
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(run_id)).parameters["home"] == home.uri
    assert told[2]["run"]["facets"]["parent"]["run"]["runId"] == run_id
    (read,), (written,) = told[2]["inputs"], told[2]["outputs"]
    assert (read["facets"]["version"]["datasetVersion"], read["inputFacets"]["inputStatistics"]["rowCount"]) == ("1", 3)
    assert (written["facets"]["version"]["datasetVersion"], written["outputFacets"]["outputStatistics"]["rowCount"]) == ("1", 1)
    assert Path(written["name"]).is_dir()
    assert "alice" not in log.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_an_error_of_ours_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Nor told with the place in the code where it was raised."""
    from prefect import flow

    from flows.stages import stage, stage_task

    tries = []

    def wrong() -> None:
        tries.append(1)
        raise InputError("no such file")

    with pytest.raises(InputError):
        flow(lambda: stage("wrong", wrong), name="wrong")()
    assert len(tries) == 1
    assert "no such file" in caplog.text
    assert "Traceback" not in caplog.text
    assert stage_task("wrong", wrong).retry_delay_seconds == [2, 4]
