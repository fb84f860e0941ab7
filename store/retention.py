"""Retention: which versions and bundles are kept, and which rows only the others read.

A version is retired by a record before its superseded rows are folded; whoever gives it a name meanwhile wins. Never retired: the newest
of every line, what an alias names or would be rolled back to, and what a bundle on the shelf was made of.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

import lance
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.records import RetiredRecord, VersionRecord
from store import upkeep
from store.action import Action, folder_bytes, row_bytes, state_tables
from store.bundle import key_ranges
from store.frames import to_polars
from store.home import Home, provenance
from store.lease import living
from store.versions import aliases, retired, returns

#: Rows of one pass of folding, about.
FOLD_ROWS = 2_000_000


def bundle_version(name: str) -> int | None:
    """The version a bundle's name begins with."""
    number = name.removeprefix("v").split("-")[0]
    return int(number) if name.startswith("v") and number.isdecimal() else None


def old_bundles(home: Home) -> Iterable[Action]:
    """Bundles that are neither served nor new nor of a version with a name, and half-written ones."""
    names = home.objects.names("bundles")
    data = home.objects.get("bundles/CURRENT")
    serving = data.decode() if data else None
    whole = [name for name in names if bundle_version(name) and home.objects.get(f"bundles/{name}/manifest.json") is not None]
    newest_first = sorted(whole, key=lambda name: bundle_version(name) or 0, reverse=True)
    kept = {serving, *newest_first[: home.config.maintain.keep_bundles], *(n for n in whole if bundle_version(n) in aliases(home))}
    for name in list(kept):
        kept |= set(_bases(home, name))
    for name in whole:
        if name not in kept:
            why = f"not among the newest {home.config.maintain.keep_bundles}, not served, and no alias names its version"
            yield Action(f"bundles/{name}", why, folder_bytes(home, f"bundles/{name}"), partial(_drop_bundle, home, name))
    if not any(name.startswith("bundle-") for name in living(home)):
        for name in names:
            if name != "CURRENT" and name not in whole:
                yield Action(
                    f"bundles/{name}",
                    "half-written by a dead process",
                    folder_bytes(home, f"bundles/{name}"),
                    partial(_drop_bundle, home, name),
                )


def _bases(home: Home, name: str | None) -> Iterable[str]:
    """The bundles that a delta bundle stands on."""
    seen: list[str] = []
    while name and name not in seen:
        seen.append(name)
        data = home.objects.get(f"bundles/{name}/manifest.json")
        base = json.loads(data).get("base") if data else None
        name = base["name"] if base else None
    return seen


def _drop_bundle(home: Home, name: str) -> None:
    data = home.objects.get("bundles/CURRENT")
    if not data or data.decode() != name:
        # The manifest first: a bundle without one is none.
        home.objects.remove(f"bundles/{name}/manifest.json")
        home.objects.delete(f"bundles/{name}")


def needed(home: Home) -> set[int]:
    """Versions that a name, a rollback of it or a bundle needs, and the newest of every line."""
    versions = home.versions.all()
    lines = {version.aggregator: version.number for version in versions}
    bundled = {number for name in home.objects.names("bundles") if (number := bundle_version(name))}
    return {*lines.values(), *aliases(home), *returns(home), *bundled}


def retirements(home: Home) -> dict[int, Action]:
    """Versions to retire, by number."""
    config, gone, held = home.config.maintain, retired(home), needed(home)
    before = datetime.now(UTC) - timedelta(days=config.keep_days)
    found: dict[int, Action] = {}
    lines: dict[str, list[VersionRecord]] = {}
    for version in home.versions.all():
        if version.number not in gone:
            lines.setdefault(version.aggregator, []).append(version)
    for line in lines.values():
        for version in line[: -config.keep_versions]:
            if version.created_at < before and version.number not in held:
                why = f"not among the newest {config.keep_versions} of its line, older than {config.keep_days:g} days, and nothing needs it"
                found[version.number] = Action(f"version {version.number}", why, 0, partial(_retire, home, version.number, why))
    return found


def _retire(home: Home, number: int, why: str) -> None:
    record = RetiredRecord.model_validate({**provenance(), "number": number, "reason": why})
    if home.retired.append(number, record) and number in needed(home):
        # It was given a name just now; that wins.
        home.objects.remove(f"retired/{number}.json")


def folds(home: Home, retiring: set[int]) -> Iterable[Action]:
    """Rows that only retired versions read, or that were appended twice."""
    for table in state_tables(home):
        dataset = home.tables.open(table)
        gone = retired(home) | retiring
        rows = sum(map(len, _superseded(dataset, _versions(home, table), gone))) if dataset is not None else 0
        if rows:
            why = "superseded in every version that is kept"
            yield Action(f"{rows:,} rows of {table}", why, row_bytes(home, table, rows), partial(_fold, home, table))


def _superseded(dataset: lance.LanceDataset, versions: list[VersionRecord], gone: set[int]) -> Iterable[npt.NDArray[np.uint64]]:
    """Ids of rows that no version outside ``gone`` reads; rows of runs that no version names are not ours to judge."""
    kept = [version.runs for version in versions if version.number not in gone]
    runs = pa.array(sorted({run for version in versions for run in version.runs}), pa.int64())
    for low, high in key_ranges(max(1, -(-dataset.count_rows() // FOLD_ROWS))):
        filter = (pc.field("user_key") >= low) & (pc.field("user_key") <= high) & pc.field("run").isin(runs)
        frame = to_polars(dataset.scanner(columns=["user_id", "run"], filter=filter, with_row_id=True).to_table())
        frame, read = frame.sort("_rowid"), np.zeros(len(frame), bool)
        frame = frame.with_row_index("place")
        for version in kept:
            order = pl.DataFrame({"run": version, "age": range(len(version))}, schema={"run": pl.Int64, "age": pl.Int64})
            latest = frame.join(order, on="run").sort("age", "place").unique(["user_id"], keep="last")
            read[latest["place"].to_numpy()] = True
        rows = frame["_rowid"].to_numpy()[~read]
        if len(rows):
            yield rows


def _fold(home: Home, table: str) -> None:
    dataset = home.tables.open(table)
    if dataset is not None:
        # Only what is retired by a record now: a version that was named meanwhile keeps its rows.
        for rows in _superseded(dataset, _versions(home, table), retired(home)):
            upkeep.delete_rows(home.tables, table, dataset, rows)


def _versions(home: Home, table: str) -> list[VersionRecord]:
    return [version for version in home.versions.all() if table == f"states-{version.aggregator[:16]}"]
