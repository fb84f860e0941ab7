"""Sweeping: rows, plans, leases and files that writers left who were killed, or lost to another one.

None of it can hurt a living writer:

- An ingest's rows go once another one holds the number they were for. Rows for the next free number could still count: while no ingest
  holds a lease, an empty record takes that number first, so that whoever is alive after all loses it and tries again.
- A refresh's rows go once neither a plan nor a version names their run, and a plan goes once its line has moved past the plan's parent.
- Files that no version of a table names go while nobody holds a lease, or when they are a week old.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from schemas.errors import CorruptError
from schemas.records import IngestRecord, Plan
from store import upkeep
from store.action import Action, folder_bytes, row_bytes, state_tables
from store.events import EVENTS_TABLE, REJECTS_TABLE
from store.home import RUN_BITS, Home, provenance
from store.lease import FOLDER, dead, living
from store.versions import newest

#: Age at which a file that no version names goes even while somebody works: no write takes that long.
STALE = timedelta(days=7)


def dead_leases(home: Home) -> list[Action]:
    """Leases whose holders died; whoever wants one takes it over anyway."""
    return [
        Action(f"{FOLDER}/{name}", "its holder is dead", 0, partial(home.objects.delete, f"{FOLDER}/{name}"))
        for name in dead(home)
        if name != "maintain"
    ]


def read_plan(home: Home, folder: str) -> Plan | None:
    """The plan in ``plans/<folder>``; None if none is there that can be read."""
    data = home.objects.get(f"plans/{folder}/plan.json")
    try:
        return Plan.model_validate_json(data) if data else None
    except ValidationError:
        return None


def pending(home: Home) -> dict[str, Plan]:
    """Plans that may still be finished, by folder: their line has no version past the plan's parent."""
    plans = {folder: plan for folder in home.objects.names("plans") if (plan := read_plan(home, folder))}
    return {
        folder: plan for folder, plan in plans.items() if (last.number if (last := newest(home, plan.aggregator)) else None) == plan.parent
    }


def dead_plans(home: Home) -> list[Action]:
    """Plans that can never be finished, and what late workers left of finished ones."""
    kept = pending(home)
    return [
        Action(f"plans/{folder}", "its line has a newer version", folder_bytes(home, f"plans/{folder}"), partial(_drop_plan, home, folder))
        for folder in home.objects.names("plans")
        if folder not in kept
    ]


def _drop_plan(home: Home, folder: str) -> None:
    # Made anew meanwhile, it may be finished: look again.
    if folder not in pending(home):
        home.objects.delete(f"plans/{folder}")


def _tags(home: Home, table: str, column: str) -> dict[int, int]:
    """Rows of a table by the value of its tag."""
    counts: dict[int, int] = {}
    for batch in home.tables.scan(table, [column]):
        values = batch.column(column).value_counts()
        for value, count in zip(values.field("values").to_pylist(), values.field("counts").to_pylist(), strict=True):
            counts[value] = counts.get(value, 0) + count
    return counts


def unnamed_events(home: Home) -> Iterable[Action]:
    """Rows of ingests that were killed, or lost their number to another one."""
    found = {table: _tags(home, table, "ingest") for table in (EVENTS_TABLE, REJECTS_TABLE)}
    last = home.ingests.last()
    named = {record.run for record in home.ingests.range(0, last)}
    busy = any(name.startswith("ingest-") for name in living(home))
    for table, counts in found.items():
        unnamed = {tag: rows for tag, rows in counts.items() if tag not in named}
        # An attempt for the next number may still be written by whoever is at it.
        ours = {tag for tag in unnamed if not (busy and _is_for(tag, last + 1))}
        if ours:
            rows = sum(unnamed[tag] for tag in ours)
            yield Action(
                f"{rows:,} rows of {table}",
                "no ingest's record names them",
                row_bytes(home, table, rows),
                partial(_drop_events, home, table, sorted(ours)),
            )


def _is_for(tag: int, number: int) -> bool:
    """Whether ``tag`` is of an attempt to become ingest ``number``."""
    return tag >> RUN_BITS == number & (1 << (62 - RUN_BITS)) - 1


def _drop_events(home: Home, table: str, tags: list[int]) -> None:
    last = home.ingests.last()
    named = {record.run for record in home.ingests.range(0, last)}
    tags = [tag for tag in tags if tag not in named]
    if any(_is_for(tag, last + 1) for tag in tags):
        # Its holder seems dead; with its number taken, it can never count. Whoever was first has it now.
        fields = dict.fromkeys(("run", "read", "accepted", "duplicate", "corrected", "rejected"), 0)
        record = IngestRecord.model_validate({**provenance(), **fields, "number": last + 1, "sources": ("maintain",)})
        if not home.ingests.append(last + 1, record):
            named = {record.run for record in home.ingests.range(0, home.ingests.last())}
            tags = [tag for tag in tags if tag not in named]
    upkeep.delete(home.tables, table, pc.field("ingest").isin(pa.array(tags, pa.int64())))


def _named_runs(home: Home) -> set[int]:
    """Runs that a version or a plan names. Plans first: a refresh writes its version before its plan goes."""
    plans = {plan.run for folder in home.objects.names("plans") if (plan := read_plan(home, folder))}
    return plans | {run for version in home.versions.all() for run in version.runs}


def unnamed_states(home: Home) -> Iterable[Action]:
    """Rows of refreshes that no plan and no version names. Rows are looked at before plans: a plan comes before its rows."""
    for table in state_tables(home):
        counts = _tags(home, table, "run")
        named = _named_runs(home)
        unnamed = sorted(run for run in counts if run not in named)
        if unnamed:
            rows = sum(counts[run] for run in unnamed)
            yield Action(
                f"{rows:,} rows of {table}",
                "no version names their run",
                row_bytes(home, table, rows),
                partial(_drop_states, home, table, unnamed),
            )


def _drop_states(home: Home, table: str, runs: list[int]) -> None:
    upkeep.delete(home.tables, table, pc.field("run").isin(pa.array(runs, pa.int64())))


def loose_files(home: Home, name: str) -> dict[str, int]:
    """Files that no version of the table and no pending plan names, with their bytes.

    Files are listed before leases and names are read: whoever writes now holds a lease, whoever is done has named their files.
    """
    there = home.tables.files(name)
    busy = any(lease != "maintain" for lease in living(home))
    if busy:
        there = {path: about for path, about in there.items() if about[1] < datetime.now(UTC) - STALE}
    named = upkeep.tracked(home.tables, name)
    for folder in pending(home):
        named |= _staged(home, folder)
    return {
        path: size for path, (size, _) in there.items() if path not in named and path.split("/")[0] in ("data", "_deletions", "_indices")
    }


def _staged(home: Home, folder: str) -> set[str]:
    """Data files that the finished shards of a plan wrote."""
    found: set[str] = set()
    for file in home.objects.names(f"plans/{folder}"):
        if file == "plan.json":
            continue
        try:
            made = json.loads(home.objects.get(f"plans/{folder}/{file}") or b"{}")
            found |= {
                f"data/{data['path']}" for fragment in made.get("fragments", ()) for data in json.loads(fragment)["fragment"]["files"]
            }
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                f"the manifest of a finished shard cannot be read: {error}",
                where=f"{home.uri}/plans/{folder}/{file}",
                mend="tapstate refresh, which does that shard again",
            ) from error
    return found


def drop_files(home: Home, name: str) -> None:
    """Delete what ``loose_files`` finds now."""
    for path in loose_files(home, name):
        home.objects.remove(f"lance/{name}.lance/{path}")


def half_written(home: Home) -> list[Action]:
    """Temporary files of writers of small objects that were killed."""
    if living(home).keys() - {"maintain"}:
        return []
    return [
        Action(path, "left by a writer that was killed", size, partial(home.objects.discard_part, path))
        for path, size in home.objects.parts().items()
    ]
