"""What the processes of ``benchmarks.torture`` do: one role each, over and over, until they are killed or told to stop.

All that a role must remember beyond its death is in its journal, a file that it only appends to.
"""

import hashlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipelines.checks import complaint
from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.table import TableSource
from schemas.errors import ConflictError, HomeError, NotFoundError, TapstateError
from schemas.records import VersionRecord
from store.home import Home
from store.lease import lease
from store.maintenance import maintain
from store.models import Models
from store.states import States
from store.versions import PRODUCTION, current, promote, resolve, retired

DAY = 86_400
USERS, ERASABLE, TEXTS = 30, 12, 60
#: Ingests of different sources at once.
SOURCES = 2


@dataclass(frozen=True)
class Arena:
    """Where it happens: ``home``, and beside it ``work`` with journals, inputs and what readers saw."""

    home: str
    work: Path
    seed: int

    def journal(self, role: str) -> list[dict[str, Any]]:
        """What a role wrote, leaving out a line that a kill cut off."""
        path, found = self.work / f"{role}.log", []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def note(self, journal: str, /, **entry: Any) -> None:
        """Append to a journal; a newline first ends what a kill cut off."""
        with (self.work / f"{journal}.log").open("a") as stream:
            stream.write("\n" + json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def stopped(self) -> bool:
        """Whether it is time to end."""
        return (self.work / "stop").exists()


def rows(seed: int, source: int, number: int) -> list[dict[str, Any]]:
    """Rows of file ``number`` of a source: new events, repeated ones, corrections and deletions of the file before."""
    rng = random.Random(f"{seed}-{source}-{number}")
    found = _events(seed, source, number)
    for _ in range(6):
        other = _events(seed, rng.randrange(SOURCES), rng.randrange(number + 1))
        found.append(rng.choice(other))
    if number:
        before = _events(seed, source, number - 1)
        for event in before[:2]:
            found.append({**event, "text": "corrected " + event["text"], "ts": event["ts"] + 5})
        found.append({"user_id": before[2]["user_id"], "event_id": before[2]["event_id"], "op": "delete"})
    return found


def _events(seed: int, source: int, number: int) -> list[dict[str, Any]]:
    rng = random.Random(f"{seed}-{source}-{number}-new")
    names = [f"u{n}" for n in range(USERS)] + [f"gone{n}" for n in range(ERASABLE)]
    return [
        {
            "user_id": rng.choice(names),
            "event_id": f"{source}-{number}-{n}",
            "ts": 1_700_000_000 + rng.randrange(365) * DAY + rng.choice([0, 0, 3_600, 7_777]),
            "text": f"text {rng.randrange(TEXTS)}",
            "target": rng.choice([None, "red", "blue"]),
            "value": rng.choice([None, 1.0, -2.5]),
        }
        for n in range(rng.randrange(10, 50))
    ]


def wanted(seed: int, counts: list[int], erased: set[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Current events once ``counts[s]`` files of each source are in: by (user, event), without the erased users'."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    corrections: list[dict[str, Any]] = []
    for source, count in enumerate(counts):
        for number in range(count):
            new = {f"{s}-{n}" for s in range(SOURCES) for n in range(number + 1)}
            for row in rows(seed, source, number):
                again = "corrected" in row.get("text", "") or "op" in row
                if again:
                    corrections.append(row)
                else:
                    assert row["event_id"].rpartition("-")[0] in new
                    found.setdefault((row["user_id"], row["event_id"]), row)
    for row in corrections:
        key = (row["user_id"], row["event_id"])
        if "op" in row:
            found.pop(key, None)
        else:
            found[key] = row
    return {key: row for key, row in found.items() if key[0] not in erased}


def write(arena: Arena, source: int, number: int) -> str:
    """The file of JSON lines."""
    path = arena.work / f"in-{source}-{number}.jsonl"
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows(arena.seed, source, number)))
    part.replace(path)
    return str(path)


def ingesting(arena: Arena, source: int) -> None:
    """The source's next file; the same one again after a kill."""
    role = f"ingest{source}"
    number = sum(entry["did"] == "done" for entry in arena.journal(role))
    record, damaged = ingest(Home(arena.home), TableSource([write(arena, source, number)]), historical=True)
    assert not damaged
    assert record.read == record.accepted + record.duplicate + record.corrected + record.rejected
    arena.note(role, did="done", number=record.number)
    time.sleep(random.random())


def refreshing(arena: Arena, full: bool = False) -> VersionRecord | None:
    """One night without its scheduler."""
    home, started = Home(arena.home), datetime.now(UTC)
    if not home.ingests.last():
        return None
    refresh = Refresh(home, full=full)
    line = refresh.aggregator_hash[:12]
    with lease(home, f"refresh-{line}", f"a refresh of line {line}"):
        planned = refresh.plan()
        if planned is None:
            return refresh.parent
        folder, plan = planned
        encoded = refresh.encode(plan)
        version = refresh.commit(folder, plan, encoded, refresh.update(folder, plan), started)
        if not complaint(version.checks):
            promote(home, version.number, expected=current(home, PRODUCTION), reason="night")
        return version


def promoting(arena: Arena) -> None:
    """Any version that is kept gets a name."""
    home = Home(arena.home)
    if home.versions.last():
        number = random.randint(max(1, home.versions.last() - 6), home.versions.last())
        alias = random.choice([PRODUCTION, "candidate"])
        promote(home, number, alias=alias, expected=current(home, alias), reason="torture")


def maintaining(arena: Arena) -> None:
    """Everything that is to be done."""
    home = Home(arena.home)
    with lease(home, "maintain", "maintenance"):
        for action, put_off in maintain(home):
            arena.note("maintain", did="put off" if put_off else "done", what=action.what, why=put_off or action.why)


def can_erase() -> bool:
    """Whether this release has the command."""
    return importlib.util.find_spec("flows.commands.erase") is not None


def erasing(arena: Arena) -> None:
    """The next user, or the one whose erasure was killed; not too fast, so that there are some left."""
    entries = arena.journal("erase")
    users = [entry["user"] for entry in entries if entry["did"] == "started"]
    done = {entry["user"] for entry in entries if entry["did"] == "done"}
    user = next((user for user in users if user not in done), None)
    if user is None:
        if len(users) >= ERASABLE:
            time.sleep(1)
            return
        time.sleep(random.random() * 4)
        user = f"gone{len(users)}"
        arena.note("erase", did="started", user=user)
    command = [sys.executable, "-m", "flows.cli", "--home", arena.home, "erase", user, "--yes", "--output", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        arena.note("erase", did="done", user=user)
    elif result.returncode not in (1, 4):
        raise AssertionError(f"erase ended with {result.returncode}: {result.stderr[-2000:]}")
    else:
        arena.note("erase", did="refused", why=result.stderr[-500:])


def reading(arena: Arena) -> None:
    """A whole version, compared with its record and with what anybody read of it before."""
    home = Home(arena.home)
    if not home.versions.last():
        time.sleep(0.2)
        return
    number = random.choice([None, random.randint(max(1, home.versions.last() - 6), home.versions.last())])
    record = resolve(home, number)
    started = {entry["user"] for entry in arena.journal("erase") if entry["did"] == "started"}
    table = States(home, record.aggregator, Models(home).spec(record.aggregator)).read(record.runs)
    started |= {entry["user"] for entry in arena.journal("erase") if entry["did"] == "started"}
    wrong = _wrong(arena, record, table, started)
    if wrong and record.number in retired(home):
        # It was retired between our look and our read.
        return
    arena.note("read", did="half" if wrong else "whole", version=record.number, why=wrong)


def _wrong(arena: Arena, record: VersionRecord, table: Any, erased: set[str]) -> str:
    users = table.column("user_id").to_pylist()
    if len(set(users)) != len(users):
        return f"{len(users) - len(set(users))} users twice"
    missing, events = record.users - len(users), sum(table.column("event_count").to_pylist())
    if not 0 <= missing <= len(erased):
        return f"{missing} users of {record.users} are missing, {len(erased)} are erased"
    if events > record.events or (not erased and events != record.events):
        return f"{events} events instead of {record.events}"
    kept = table.filter(pc.invert(pc.starts_with(table.column("user_id"), "gone"))).combine_chunks()
    digest = hashlib.sha256(repr(kept.to_pydict()).encode()).hexdigest()
    seen = arena.work / "seen" / str(record.number)
    try:
        with seen.open("x") as stream:
            stream.write(digest)
    except FileExistsError:
        before = seen.read_text()
        if before and before != digest:
            return f"version {record.number} reads other than before"
    return ""


ROLES: dict[str, Callable[[Arena], Any]] = {
    **{f"ingest{source}": partial(ingesting, source=source) for source in range(SOURCES)},
    "refresh0": refreshing,
    "refresh1": refreshing,
    "promote": promoting,
    "maintain": maintaining,
    "erase": erasing,
    "read": reading,
}


def work(arena: Arena, role: str) -> None:
    """Do a role until told to stop. Losing to another one is fine; what nobody raised on purpose is not."""
    np.random.default_rng()
    random.seed(os.getpid() ^ time.time_ns())
    os.environ["OMP_NUM_THREADS"] = "1"
    while not arena.stopped():
        try:
            ROLES[role](arena)
        except ConflictError as error:
            arena.note("refused", role=role, what=error.what)
            time.sleep(random.random())
        except NotFoundError:
            time.sleep(0.1)
        except HomeError as error:
            arena.note("retried" if "while it was read" in error.what else "errors", role=role, what=str(error))
        except TapstateError as error:
            arena.note("errors", role=role, what=str(error))
        except Exception:
            arena.note("errors", role=role, what=traceback.format_exc())
        time.sleep(0.05)


def roles() -> Iterator[str]:
    """The roles that this release can play; reads take the place of what it cannot."""
    for role in ROLES:
        yield "read" if role == "erase" and not can_erase() else role
