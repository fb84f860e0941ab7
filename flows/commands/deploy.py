"""``tapstate deploy``: serve the nightly schedule."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from flows.commands import open_home
from flows.console import note
from schemas.errors import ConflictError

#: Seconds a server of ours may take to answer.
PATIENCE = 180


def deploy(
    port: Annotated[int, typer.Option(help="Loopback port of the Prefect server that is started when none is configured.")] = 4200,
) -> None:
    """Serve the nightly refresh on the configured schedule, one run at a time, and the backfill on demand, until stopped."""
    from flows.prefect_home import settle

    home = open_home()
    settle(home)
    with _server(port):
        from prefect import serve
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
        from prefect.deployments.runner import RunnerDeployment
        from prefect.schedules import Cron

        from flows.backfill import backfill
        from flows.nightly import nightly

        schedule = home.config.schedule
        note(f"nightly refresh of {home.uri} at {schedule.cron!r} ({schedule.timezone}); stop with Ctrl-C")
        one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
        parameters = {"home": home.uri}
        cron = Cron(schedule.cron, timezone=schedule.timezone)
        serve(
            RunnerDeployment.from_flow(nightly, "nightly-refresh", schedule=cron, parameters=parameters, concurrency_limit=one),
            RunnerDeployment.from_flow(backfill, "backfill", parameters=parameters, concurrency_limit=one),
        )


@contextmanager
def _server(port: int) -> Iterator[None]:
    """The configured Prefect server, or one of our own on loopback: a temporary one runs flows but no schedules."""
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    # Its own session: Ctrl-C stops the schedule first, which still needs its server to say so.
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait(server, f"{base}/api/health")
        os.environ["PREFECT_API_URL"] = f"{base}/api"
        note(f"Prefect server on {base}")
        yield
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait(server: subprocess.Popen[bytes], health: str) -> None:
    for _ in range(PATIENCE):
        try:
            with urllib.request.urlopen(health, timeout=2):
                pass
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                break
            time.sleep(1)
        else:
            if server.poll() is None:
                return
            break
    raise ConflictError(
        "no Prefect server could be started, or another one holds the port", where=health, mend="tapstate deploy --port 4201"
    )
