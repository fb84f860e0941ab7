"""What an operator sets up, on a real Prefect server: alerts and ``prefect.yaml``."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from posts import posts

from store.home import Home

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that names a server with all its services. Flows run in processes of their own: what one still has to tell a server
    that is gone keeps its process from ending."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

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
            with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home}):
                yield {"PREFECT_API_URL": url, "PREFECT_HOME": str(home), **quiet}


def run(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_failed_and_a_missing_night_alert(prefect_server: dict[str, str], home: Home) -> None:
    """The example as it stands; nothing was ingested, so the night fails, and 11 seconds pass without a good one."""
    from prefect.automations import Automation

    with posts() as (url, taken):
        for _ in range(2):
            told = run(prefect_server, "docs/examples/alerts.py", f"{url}/", "--hours", "0.003").splitlines()
        refresh = subprocess.run(
            [sys.executable, "-m", "flows.cli", "--home", home.uri, "refresh"],
            env={**os.environ, **prefect_server}, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "no events were ingested yet" in refresh.stderr
        deadline = time.monotonic() + 300
        texts: list[str] = []
        while time.monotonic() < deadline and not all(any(word in text for text in texts) for word in ("is Failed", "no night completed")):
            time.sleep(0.5)
            texts = [alert["text"] for _, alert in taken]
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
