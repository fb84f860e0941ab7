import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from store.home import Home


@pytest.mark.slow
def test_the_schedule_makes_a_version(new_home: Callable[..., Home], put: Callable[..., object]) -> None:
    home: Home = new_home()
    put(home, [{"user_id": "a", "ts": "2024-01-01", "text": "hello"}])
    config = Path(home.uri) / "config.toml"
    config.write_text(config.read_text().replace('cron = "30 1 * * *"', 'cron = "* * * * *"'))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    deploy = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "--home", home.uri, "deploy", "--port", str(port)], env=environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 300
        while not home.versions.last() and time.monotonic() < deadline and deploy.poll() is None:
            time.sleep(1)
        assert home.versions.last() == 1
    finally:
        os.killpg(deploy.pid, signal.SIGINT)
        deploy.wait(60)
