"""What an operator sets up, on a real Prefect server: alerts, ``prefect.yaml``, backfills, retries, lineage of nights."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from schemas.errors import ConfigError, InputError
from schemas.records import IngestRecord
from store.home import Home

ROOT = Path(__file__).parents[2]
Put = Callable[..., IngestRecord]


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server with all its services, used by this process too; the environment that names it."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    from flows.commands.deploy import _server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_LOGGING_LEVEL": "ERROR"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PREFECT_HOME": str(home), **quiet}.items():
            patch.setenv(name, value)
        patch.delenv("PREFECT_API_URL", raising=False)
        with _server(port):
            url = os.environ.pop("PREFECT_API_URL")
            patch.setenv("PREFECT_API_URL", url)
            with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home, PREFECT_LOGGING_TO_API_ENABLED: False}):
                yield {"PREFECT_API_URL": url, "PREFECT_HOME": str(home), **quiet}


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[str]]]:
    """An address that alerts are posted to, and their texts."""
    texts: list[str] = []

    class Alerts(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Alerts)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/", texts
    listening.shutdown()
    listening.server_close()


def run(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_failed_and_a_missing_night_alert(prefect_server: dict[str, str], webhook: tuple[str, list[str]], home: Home) -> None:
    """The example as it stands; nothing was ingested, so the night fails, and 11 seconds pass without a good one."""
    from prefect.automations import Automation

    from flows.nightly import nightly

    url, texts = webhook
    for _ in range(2):
        told = run(prefect_server, "docs/examples/alerts.py", url, "--hours", "0.003").splitlines()
    with pytest.raises(Exception, match="no events were ingested yet"):
        nightly(home.uri)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not all(any(word in text for text in texts) for word in ("is Failed", "no night completed")):
        time.sleep(0.5)
    failed = next(text for text in texts if "is Failed" in text)
    assert failed.startswith("tapstate: nightly ")
    assert "mend: tapstate ingest table" in failed
    assert any(text.startswith("tapstate: no night completed within 0.003 hours") for text in texts)
    assert len(told) == 2
    for name in told:
        Automation.read(name=name).delete()
    with pytest.raises(ValueError, match="not found"):
        Automation.read(name=told[0])


@pytest.mark.slow
def test_prefect_yaml_deploys_what_tapstate_deploy_serves(prefect_server: dict[str, str], home: Home) -> None:
    from prefect.client.orchestration import get_client

    run(prefect_server, "-m", "prefect", "work-pool", "create", "tapstate", "--type", "process")
    run({**prefect_server, "TAPSTATE_HOME": home.uri}, "-m", "prefect", "--no-prompt", "deploy", "--all")
    with get_client(sync_client=True) as client:
        night = client.read_deployment_by_name("nightly/nightly-refresh")
        past = client.read_deployment_by_name("backfill/backfill")
    (schedule,) = night.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == (home.config.schedule.cron, home.config.schedule.timezone)  # type: ignore[union-attr]
    assert not past.schedules
    for deployment in (night, past):
        assert deployment.parameters == {"home": home.uri}
        assert deployment.global_concurrency_limit is not None
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options is not None
        assert deployment.concurrency_options.collision_strategy == "ENQUEUE"
    assert {"files", "first", "last"} < set(past.parameter_openapi_schema["properties"])


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


@pytest.mark.parametrize(
    ("files", "first", "last", "wrong"),
    [
        ("e/{day}.csv", 2, 1, "the last day, 2024-01-01, is before the first, 2024-01-02"),
        ("e/all.csv", 1, 2, "every day would have the same files"),
        ("e/all.csv", 1, 1, "every day would have the same files"),
        ("e/{day:%Y}.csv", 1, 2, "every day would have the same files"),
        ("e/{date}.csv", 1, 2, "not a name of a day's files"),
        ("e/{}.csv", 1, 2, "not a name of a day's files"),
        ("e/{day", 1, 2, "not a name of a day's files"),
    ],
)
def test_a_range_that_is_none_is_refused(files: str, first: int, last: int, wrong: str) -> None:
    from flows.backfill import _days

    with pytest.raises(ConfigError, match=wrong):
        _days(files, date(2024, 1, first), date(2024, 1, last))


def test_a_range_names_its_days() -> None:
    from flows.backfill import _days

    found = _days("s3://b/{day:%Y/%m/%d}/*.parquet", date(2024, 2, 28), date(2024, 3, 1))
    assert [name for _, name in found] == [f"s3://b/2024/{day}/*.parquet" for day in ("02/28", "02/29", "03/01")]


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
def test_an_error_of_ours_is_not_tried_again() -> None:
    from prefect import flow

    from flows.stages import stage, stage_task

    tries = []

    def wrong() -> None:
        tries.append(1)
        raise InputError("no such file")

    with pytest.raises(InputError):
        flow(lambda: stage("wrong", wrong), name="wrong")()
    assert len(tries) == 1
    assert stage_task("wrong", wrong).retry_delay_seconds == [2, 4]
