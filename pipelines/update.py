"""Update: the shard function of a refresh. Events of a range of users in, their changed states out.

Users with plain new events get them merged into their state; corrections and deletions are not mergeable, so those users are
computed again from all their events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from encoders.personalizer import Aggregator, EventBatch
from pipelines.described import open_aggregator
from pipelines.meter import Meter, Silent
from pipelines.stages import Manifest
from schemas.events import DELETE
from schemas.records import Plan, Shard
from schemas.states import STATE_KEYS, StateBatch
from store.changes import Changes
from store.embeddings import Embeddings
from store.events import EventLog
from store.frames import to_polars
from store.home import Home
from store.states import States

COLUMNS = ("user_id", "user_key", "event_key", "ts", "value", "text_key", "target_key")
#: Read beside them for an aggregator that runs an LLM.
TEXTS = ("text", "target", "task")


@dataclass(frozen=True)
class Shifted(Manifest):
    """Manifest of one shard: what it wrote and what the checks want to know of it.

    Attributes:
        fragments: the staged rows.
        changed: users written.
        users, events: by how much the version's users and events differ from the parent's because of this shard.
        new_events: events the shard consumed.
        bad: written states with NaN or infinity where none may be.
        zero: written states of users with events whose vector is zero.
        changes: what differs from the parent's rows, as ``Changes.to_json``; none of a rebuild, which does not read them.
        norm_median, norm_max: of the written states' vectors.
    """

    fragments: list[str]
    changed: int
    users: int
    events: int
    new_events: int
    bad: int
    norm_median: float
    norm_max: float
    zero: int = 0
    changes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Updater:
    """Everything a shard needs beside its descriptor."""

    log: EventLog
    states: States
    cache: Embeddings
    aggregator: Aggregator
    plan: Plan
    parent_runs: Sequence[int]
    meter: Meter = field(default_factory=Silent)

    def __reduce__(self) -> tuple[object, ...]:
        return _opened, (self.log.home.uri, self.plan.folder, self.plan.run)

    def __call__(self, shard: Shard) -> Shifted:
        """Compute and stage the states of one shard."""
        table, parents, new_events = self._compute(shard.low, shard.high)
        before = parents.column("event_count").to_numpy()
        counts = table.column("event_count").to_numpy()
        norms = state_norms(table, self.states.schema)
        self.meter.advance("update", shard.events)
        return Shifted(
            fragments=self.states.stage(table, self.plan.states_since) if table.num_rows else [],
            changed=table.num_rows,
            users=int((counts > 0).sum()) - int((before > 0).sum()),
            events=int(counts.sum()) - int(before.sum()),
            new_events=new_events,
            bad=int((~np.isfinite(norms)).sum()),
            norm_median=float(np.median(norms[np.isfinite(norms)])) if np.isfinite(norms).any() else 0.0,
            norm_max=float(norms[np.isfinite(norms)].max(initial=0.0)),
            zero=int(((norms == 0) & (counts > 0)).sum()),
            changes=self._changes(parents, table),
        )

    def _changes(self, parents: pa.Table, table: pa.Table) -> Mapping[str, Any] | None:
        """Told here, where both rows of a user are at hand; reading them again would take as long as the update."""
        if self.plan.kind == "rebuild":
            return None
        left = pc.greater(table.column("event_count"), 0)
        there = table if pc.all(left).as_py() else table.filter(left)
        return Changes.of(parents, there, self.aggregator.spec).to_json()

    def first_bad(self, shard: Shard) -> str:
        """The first user, by key, of a failed shard whose events alone fail too, found by halves; empty if none does."""
        try:
            columns = self.log.scan(
                ["user_key"],
                after=0 if self.plan.kind == "rebuild" else self.plan.first_ingest,
                until=self.plan.last_ingest,
                low=shard.low,
                high=shard.high,
            )
            keys = pl.concat(columns)["user_key"].unique().sort().to_list()
            while len(keys) > 1:
                half = len(keys) // 2
                keys = keys[half:] if self._computes(keys[0], keys[half - 1]) else keys[:half]
            return "" if not keys or self._computes(keys[0], keys[0]) else f"user key {keys[0]}"
        except Exception:
            return ""

    def _computes(self, low: int, high: int) -> bool:
        try:
            self._compute(low, high)
        except Exception:
            return False
        return True

    def _compute(self, low: int, high: int) -> tuple[pa.Table, pa.Table, int]:
        """Rows of the touched users with keys in ``low … high``, those of the parent that they replace, and how many events are new."""
        plan = self.plan
        columns = self._columns
        changes_columns = (*columns, "event_id", "revision", "op")
        if plan.kind == "rebuild":
            events = self.log.current(columns, after=0, until=plan.last_ingest, low=low, high=high)
            touched = again = events.select("user_id", "user_key").unique()
            parents, new_events = self._none(), len(events)
        else:
            rows = list(self.log.scan(changes_columns, after=plan.first_ingest, until=plan.last_ingest, low=low, high=high))
            changes = pl.concat(rows) if rows else pl.DataFrame(schema=dict.fromkeys(changes_columns, pl.Null))
            touched = changes.select("user_id", "user_key").unique()
            parents, new_events = self._parents(touched), len(changes)
            again = changes.filter((pl.col("revision") > 1) | (pl.col("op") == DELETE)).select("user_id", "user_key").unique()
            events = changes.join(again, on="user_id", how="anti").select(columns)
            if len(again):
                whole = self.log.current(columns, after=0, until=plan.last_ingest, users=again["user_key"])
                events = pl.concat([events, whole.join(again, on="user_id", how="semi")])
        users = touched.sort("user_key", "user_id")
        table = self._update(users, events, parents, again["user_id"])
        return table, parents, new_events

    def rebuilt(self, users: pl.DataFrame, without: pl.Series) -> pa.Table:
        """Rows of ``users`` (``user_id, user_key``) from all their events up to the plan's last ingest, but the event keys ``without``."""
        users = users.sort("user_key", "user_id")
        events = self.log.current(self._columns, after=0, until=self.plan.last_ingest, users=users["user_key"])
        return self._update(users, events.filter(~pl.col("event_key").is_in(without.implode())), self._none(), users["user_id"])

    @property
    def _columns(self) -> tuple[str, ...]:
        """What an aggregator needs of an event; the texts themselves only where it takes gradient steps."""
        return (*COLUMNS, *(TEXTS if self.aggregator.needs_llm else ()))

    def _none(self) -> pa.Table:
        return self.states.schema.empty_table()

    def _parents(self, touched: pl.DataFrame) -> pa.Table:
        if not self.parent_runs or not len(touched):
            return self._none()
        found = self.states.read(self.parent_runs, keys=touched["user_key"].to_numpy())
        # Another user may have the same key.
        ours = pc.is_in(found.column("user_id"), value_set=touched["user_id"].to_arrow().cast(pa.string()))
        return found if pc.all(ours).as_py() else found.filter(ours)

    def _update(self, users: pl.DataFrame, events: pl.DataFrame, parents: pa.Table, rebuilt: pl.Series) -> pa.Table:
        """Rows of ``users``: parents' states, or empty ones where there is none or where it is ``rebuilt``, with ``events`` added."""
        spec = self.aggregator.spec
        index = users.with_row_index("user").with_columns(pl.col("user").cast(pl.Int64))
        held = pl.DataFrame({"user_id": pl.Series(parents.column("user_id"), dtype=pl.String)}).with_row_index("row")
        held = held.filter(~pl.col("user_id").is_in(rebuilt.implode()))
        rows = index.join(held, on="user_id", how="left", maintain_order="left")["row"].cast(pl.Int64).fill_null(-1).to_numpy()
        old = StateBatch.from_arrow(parents, spec).take(rows, spec)
        events = events.join(index.select("user_id", "user"), on="user_id", how="inner")
        states = self.aggregator.update(old, self._batch(events))
        kept = parents.select(["event_count", "first_ts", "last_ts"]).take(pa.array(rows, mask=rows < 0))
        added = index.select("user").join(
            events.group_by("user").agg(pl.len().alias("n"), pl.col("ts").min().alias("first"), pl.col("ts").max().alias("last")),
            on="user",
            how="left",
            maintain_order="left",
        )
        before = to_polars(kept)
        both = pl.concat([before, added], how="horizontal").select(
            event_count=pl.col("event_count").fill_null(0) + pl.col("n").fill_null(0).cast(pl.Int64),
            first_ts=pl.min_horizontal("first_ts", "first"),
            last_ts=pl.max_horizontal("last_ts", "last"),
        )
        keys = index.select("user_id", "user_key", pl.lit(self.plan.run, pl.Int64).alias("run")).hstack(both)
        table = keys.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(STATE_KEYS)
        for name, column in zip(spec.schema(), states.to_arrow(spec).columns, strict=True):
            table = table.append_column(name, column)
        return table

    def _batch(self, events: pl.DataFrame) -> EventBatch:
        texts, targets = events["text_key"].to_numpy(), events["target_key"]
        given = targets.is_not_null().to_numpy()
        vectors = np.zeros((len(events), self.cache.dim), np.float16)
        vectors[given] = self.cache.read(targets.drop_nulls().to_numpy())
        return EventBatch(
            user=events["user"].to_numpy(),
            ts=seconds(events["ts"]),
            key=events["event_key"].to_numpy(),
            text=self.cache.read(texts),
            target=vectors,
            value=events["value"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
            texts=events["text"].to_list() if self.aggregator.needs_llm else None,
            targets=events["target"].to_list() if self.aggregator.needs_llm else None,
            tasks=events["task"].to_list() if self.aggregator.needs_llm else None,
        )


@lru_cache(maxsize=1)
def _opened(uri: str, folder: str, run: int) -> Updater:
    """The same in a worker, from what the home holds."""
    home = Home(uri)
    plan = Plan.model_validate_json(home.objects.get(f"{folder}/plan.json") or b"")
    return updater(home, plan, open_aggregator(home, plan.aggregator, plan.encoder))


def updater(home: Home, plan: Plan, aggregator: Aggregator, meter: Meter | None = None) -> Updater:
    """The shard function of a plan's update stage."""
    parent = home.versions.get(plan.parent) if plan.parent and plan.kind == "update" else None
    return Updater(
        EventLog(home),
        States(home, plan.aggregator, aggregator.spec),
        Embeddings(home, plan.encoder, aggregator.text_dim),
        aggregator,
        plan,
        parent.runs if parent else (),
        meter or Silent(),
    )


def seconds(ts: pl.Series) -> npt.NDArray[np.int64]:
    """Timestamps as whole seconds since 1970."""
    out: npt.NDArray[np.int64] = (ts.dt.timestamp("us") // 1_000_000).to_numpy()
    return out


def state_norms(table: pa.Table, schema: pa.Schema) -> npt.NDArray[np.float64]:
    """Root mean square of each user's float32 vectors; NaN or infinite if any element is."""
    squares = np.zeros(table.num_rows)
    numbers = 0
    for column in schema:
        if pa.types.is_fixed_size_list(column.type) and pa.types.is_float32(column.type.value_type):
            flat = table.column(column.name).combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
            squares += np.square(flat, dtype=np.float64).sum(1)
            numbers += flat.shape[1]
    return np.sqrt(squares / max(1, numbers))
