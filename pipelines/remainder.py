"""What remains of every version once single events are gone: their users' states computed anew, and how much smaller versions get."""

from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.described import open_aggregator
from pipelines.subjects import Subjects
from pipelines.update import Updater, updater
from schemas.records import Plan, VersionRecord
from store.events import EVENTS_TABLE, EventLog
from store.frames import to_polars
from store.home import Home
from store.models import Models
from store.states import States, newest


@dataclass(frozen=True)
class Remainder:
    """The versions of a home without some subjects."""

    subjects: Subjects

    @property
    def home(self) -> Home:
        """The home they leave."""
        return self.subjects.home

    def states(self) -> dict[str, pa.Table]:
        """States of the single events' users as they would be had the events never come: a row wherever a version's run had reason
        to write one, by table."""
        if not self.subjects.events:
            return {}
        owners = list(dict.fromkeys(user for user, _ in self.subjects.events))
        keyed = pl.DataFrame({"user_id": owners, "user_key": self.subjects.hashes[len(self.subjects.users) :, 0]})
        without = pl.Series(self.subjects.event_keys, dtype=pl.Int64)
        rows: dict[str, list[pa.Table]] = {}
        for version in self.home.versions.all():
            states = self._states(version)
            parent = self.home.versions.get(version.parent) if version.parent and len(version.runs) > 1 else None
            changes = self._changed(keyed, without, parent.last_ingest if parent else 0, version.last_ingest)
            if len(changes):
                rows.setdefault(states.name, []).append(self._updater(version).rebuilt(changes, without))
        return {name: pa.concat_tables(tables) for name, tables in rows.items()}

    def shrunk(self, users: list[str], owners: set[str], instead: dict[str, pa.Table]) -> dict[int, tuple[int, int]]:
        """By how many users and events each version gets smaller.

        Args:
            users: who leave.
            owners: whose single events go.
            instead: their ``states``.
        """
        shrunk = {}
        keys = self.subjects.hashes[:, 0]
        for version in self.home.versions.all():
            states = self._states(version)
            rows = to_polars(states.read(version.runs, ["user_id", "event_count"], keys=keys))
            gone = rows.filter(pl.col("user_id").is_in(users))
            people, events = len(gone), int(gone["event_count"].sum())
            if owners and states.name in instead:
                before = rows.filter(pl.col("user_id").is_in(list(owners)))
                table = instead[states.name].filter(pc.field("run").isin(pa.array(version.runs, pa.int64())))
                after = to_polars(newest(version.runs).of(table).select(["user_id", "event_count"])).filter(pl.col("event_count") > 0)
                after = after.filter(pl.col("user_id").is_in(list(owners)))
                people += len(before) - len(after)
                events += int(before["event_count"].sum()) - int(after["event_count"].sum())
            if people or events:
                shrunk[version.number] = (people, events)
        return shrunk

    def _states(self, version: VersionRecord) -> States:
        return States(self.home, version.aggregator, Models(self.home).spec(version.aggregator))

    def _changed(self, owners: pl.DataFrame, without: pl.Series, first: int, last: int) -> pl.DataFrame:
        """Those of ``owners`` who have another event in ingests ``first + 1 … last``."""
        runs = EventLog(self.home).runs(first, last)
        filter = pc.field("user_key").isin(pa.array(owners["user_key"])) & pc.field("ingest").isin(pa.array(runs, pa.int64()))
        batches = self.subjects.tables.scan(EVENTS_TABLE, ["user_id", "event_key"], filter=filter)
        frames = [to_polars(pa.Table.from_batches([batch])) for batch in batches]
        if not frames:
            return owners.clear()
        rows = pl.concat(frames).filter(~pl.col("event_key").is_in(without.implode()))
        return owners.join(rows.select("user_id").unique(), on="user_id", how="semi")

    def _updater(self, version: VersionRecord) -> Updater:
        # The run that made the version, and none before it.
        plan = Plan(
            run=version.runs[-1],
            kind="rebuild",
            aggregator=version.aggregator,
            parent=None,
            first_ingest=0,
            last_ingest=version.last_ingest,
            encoder=version.encoder,
            shards=(),
            texts=(),
        )
        return updater(self.home, plan, open_aggregator(self.home, version.aggregator, version.encoder))
