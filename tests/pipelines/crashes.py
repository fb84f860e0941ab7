"""Run by ``test_crashes``: does one operation on copies of a home, killed between its steps, then again undisturbed.

A step is a call that changes what is on disk. Every run is a fork of this process, which has imported everything and used nothing, since
Lance does not survive a fork. Prints one JSON object a line: the step, what readers saw after the kill, and what came out of the rerun.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
from lance.dataset import DatasetOptimizer

from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.table import TableSource
from store.bundle import BundleShelf
from store.events import EventLog
from store.home import Home
from store.lease import lease
from store.maintenance import maintain, survey
from store.models import Models
from store.objects import Objects
from store.states import States
from store.tables import Tables
from store.versions import PRODUCTION, current, promote


def refresh(home: Home, full: bool = False) -> None:
    with lease(home, "refresh-x", "a refresh"):
        night = Refresh(home, full=full)
        planned = night.plan()
        if planned:
            folder, plan = planned
            night.commit(folder, plan, night.encode(plan), night.update(folder, plan), datetime.now(UTC))
        last = home.versions.last()
        if current(home, PRODUCTION) != last:
            promote(home, last, expected=current(home, PRODUCTION), reason="night")


def maintenance(home: Home) -> None:
    with lease(home, "maintain", "maintenance"):
        maintain(home)


def bundle(home: Home) -> None:
    shelf = BundleShelf(home)
    for _ in range(2):
        with shelf.workplace() as directory:
            (directory / "states").mkdir()
            (directory / "states" / "0.arrow").write_bytes(b"states")
            (directory / "manifest.json").write_text("{}")
            shelf.publish(directory, "v1-head")


OPERATIONS: dict[str, Callable[[Home, str], Any]] = {
    "ingest": lambda home, rows: ingest(home, TableSource([rows]), historical=True),
    "refresh": lambda home, rows: refresh(home),
    "rebuild": lambda home, rows: refresh(home, full=home.versions.last() < 3),
    "maintain": lambda home, rows: maintenance(home),
    "bundle": lambda home, rows: bundle(home),
}
STEPS = (
    (Objects, ("create", "put", "remove")),
    (Tables, ("_write", "commit")),
    (lance.LanceDataset, ("commit", "delete", "cleanup_old_versions", "create_scalar_index")),
    (DatasetOptimizer, ("compact_files", "optimize_indices")),
    (Path, ("rename",)),
)


def armed(moment: int) -> None:
    """Let this process die between its ``moment``-th step and the one before."""
    steps = [0]

    def passed() -> None:
        steps[0] += 1
        if steps[0] == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            passed()
            return real(*arguments, **options)

        return step

    for kind, names in STEPS:
        for name in names:
            static = isinstance(vars(kind).get(name), staticmethod)
            wrapped = wrap(getattr(kind, name))
            setattr(kind, name, staticmethod(wrapped) if static else wrapped)


def seen(uri: str) -> dict[str, Any]:
    """What a reader finds: every version whole, every event once, the alias on something."""
    home, log = Home(uri), EventLog(Home(uri))
    last = home.ingests.last()
    columns = ["user_id", "event_id", "revision", "op", "ts", "text"]
    events = sorted(row for frame in log.scan(columns, after=0, until=last) for row in frame.rows())
    assert len({row[:3] for row in events}) == len(events)
    versions = {}
    gone = {int(name.removesuffix(".json")) for name in home.objects.names("retired")}
    for record in home.versions.all():
        if record.number not in gone:
            table = States(home, record.aggregator, Models(home).spec(record.aggregator)).read(record.runs)
            assert table.num_rows == record.users == len(set(table["user_id"].to_pylist())), record.number
            assert sum(table["event_count"].to_pylist()) == record.events
            versions[record.number] = digest(table.drop(["run"]))
    served = home.objects.get("bundles/CURRENT")
    if served:
        assert home.objects.get(f"bundles/{served.decode()}/manifest.json") == b"{}"
    return {"events": digest(events), "versions": versions, "production": current(home, PRODUCTION)}


def digest(value: Any) -> str:
    text = repr(value.to_pydict()) if isinstance(value, pa.Table) else repr(value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def forked(work: Callable[[], Any]) -> tuple[int, str]:
    """Status and output of ``work`` in a process of its own."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        try:
            os.write(write, json.dumps(work()).encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    return os.waitpid(pid, 0)[1], text


def main(name: str, base: str, rows: str, stride: int) -> None:
    def operate(uri: str, moment: int) -> None:
        home = Home(uri)
        if moment:
            armed(moment)
        OPERATIONS[name](home, rows)

    def finish(uri: str) -> dict[str, Any]:
        OPERATIONS[name](Home(uri), rows)
        found = seen(uri)
        maintenance(Home(uri))
        assert seen(uri)["events"] == found["events"]
        return {**found, "left": [f"{action.what}: {action.why}" for action in survey(Home(uri))]}

    moment = 0
    while True:
        uri = f"{base}-{name}-{moment}"
        shutil.copytree(base, uri)
        status, text = forked(lambda uri=uri, moment=moment: operate(uri, moment))  # type: ignore[misc]
        killed = os.WIFSIGNALED(status)
        assert killed or status == 0, text
        looked = forked(lambda uri=uri: seen(uri))  # type: ignore[misc]
        ended = forked(lambda uri=uri: finish(uri))  # type: ignore[misc]
        print(json.dumps({"moment": moment, "killed": killed, "looked": looked, "ended": ended}), flush=True)
        shutil.rmtree(uri)
        if moment and not killed:
            return
        moment = moment + stride if moment else 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
