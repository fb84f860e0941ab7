"""A Dask cluster on this machine: scheduler and workers as processes of their own."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"


class DaskCluster:
    """Starts a scheduler and ``workers`` workers of one thread each; ends them on leaving.

    Args:
        workers: worker processes.
    """

    def __init__(self, workers: int) -> None:
        self.count, self.workers = workers, list[subprocess.Popen[bytes]]()
        self._directory = tempfile.TemporaryDirectory(prefix="tapstate-dask-")

    def __enter__(self) -> "DaskCluster":
        place = Path(self._directory.name)
        file, self._log = place / "scheduler.json", (place / "log").open("wb")
        common = ["--no-dashboard", "--host", "127.0.0.1"]
        self._scheduler = self._start("scheduler", "--scheduler-file", str(file), "--port", "0", *common)
        for _ in range(600):
            if file.is_file():
                break
            time.sleep(0.1)
        else:
            raise TimeoutError(f"no Dask scheduler after a minute: {(place / 'log').read_text()}")
        self.options = (f"--dask_scheduler_file={file}",)
        for _ in range(self.count):
            self.workers.append(
                self._start(
                    "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--local-directory", str(place), *common
                )
            )
        from distributed import Client

        with Client(scheduler_file=str(file)) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(self.count, timeout=120)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()
        self._log.close()
        self._directory.cleanup()

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, *arguments]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=self._log, stderr=self._log)
