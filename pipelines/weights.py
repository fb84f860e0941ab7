"""Weights: which of a user's events carry each slot of their state, computed again from the events behind it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from encoders.checkpoint import load_aggregator
from encoders.personalizer import EventBatch
from encoders.tide import Tide
from pipelines.update import seconds
from schemas.errors import InputError, NotFoundError
from schemas.keys import user_key
from schemas.records import VersionRecord
from schemas.states import StateBatch
from store.embeddings import Embeddings
from store.events import EventLog
from store.home import Home
from store.models import Models
from store.states import States

COLUMNS = ("user_id", "event_id", "event_key", "ts", "text", "target", "value", "text_key", "target_key")
#: Events of one user that are weighed, at most: about 200 MB of vectors.
MOST = 50_000


@dataclass(frozen=True)
class Weights:
    """The events behind one user's slots.

    Attributes:
        events: event_id, ts, text, target, value; oldest first.
        weight: float64 ``[e, K]``; each slot's weights sum to one.
        window: bool ``[e]``, whether the short memory holds the event.
        half_lives: float64 ``[K]``, seconds; infinite for the slot that never decays.
        gap: rms of (slots computed from these events − stored slots), over the rms of the stored ones.
    """

    events: pl.DataFrame
    weight: npt.NDArray[np.float64]
    window: npt.NDArray[np.bool_]
    half_lives: npt.NDArray[np.float64]
    gap: float

    def effective(self) -> npt.NDArray[np.float64]:
        """How many events each slot rests on, ``1 / Σ w²``, float64 ``[K]``."""
        return np.asarray(1 / np.square(self.weight).sum(0))


def event_weights(home: Home, version: VersionRecord, user_id: str) -> Weights:
    """Weigh a user's events as they were at ``version``.

    Raises:
        InputError: states without slots, or more than ``MOST`` events.
        NotFoundError: no such user at that version.
    """
    if version.personalizer != "tide":
        what = f"states of {version.personalizer} keep the latest items as they are: only a query gives them weights"
        raise InputError(what, where=f"version {version.number}", mend="take a version of tide; tapstate versions")
    aggregator = load_aggregator(Models(home).directory(version.aggregator), version.encoder)
    assert isinstance(aggregator, Tide)
    row = States(home, version.aggregator, aggregator.spec).user(version.runs, user_id)
    if not row.num_rows:
        raise NotFoundError(f"no user {user_id!r} at version {version.number}", where=home.uri, mend="ids are exact, case included")
    count = row.column("event_count")[0].as_py()
    if count > MOST:
        raise InputError(f"{count:,} events are more than are weighed at once, {MOST:,}", mend="look at a version with fewer")
    keys = pl.Series([user_key(user_id)], dtype=pl.Int64)
    events = EventLog(home).current(COLUMNS, after=0, until=version.last_ingest, users=keys)
    events = events.filter(pl.col("user_id") == user_id).sort("ts", "event_key")
    state = StateBatch.from_arrow(row, aggregator.spec)
    weight, slots = aggregator.attention(_batch(events, Embeddings(home, version.encoder, aggregator.text_dim)))
    stored = state.columns["slot_sum"][0].astype(np.float64)
    decay = aggregator.decay().numpy()
    return Weights(
        events=events.select("event_id", "ts", "text", "target", "value"),
        weight=weight,
        window=np.isin(events["event_key"].to_numpy(), state.columns["window_key"]),
        half_lives=np.divide(np.log(2), decay, out=np.full(len(decay), np.inf), where=decay > 0),
        gap=float(np.sqrt(np.square(slots - stored).mean() / max(np.square(stored).mean(), 1e-30))),
    )


def _batch(events: pl.DataFrame, cache: Embeddings) -> EventBatch:
    target = np.zeros((len(events), cache.dim), np.float16)
    given = events["target_key"].is_not_null().to_numpy()
    target[given] = cache.read(events["target_key"].drop_nulls().to_numpy())
    return EventBatch(
        user=np.zeros(len(events), np.int64),
        ts=seconds(events["ts"]),
        key=events["event_key"].to_numpy(),
        text=cache.read(events["text_key"].to_numpy()),
        target=target,
        value=events["value"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
    )
