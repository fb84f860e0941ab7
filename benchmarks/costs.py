"""What an arm costs beside its quality: parameters, stored numbers and bytes per user, time per query, time per night."""

import time

import numpy as np
import torch

from benchmarks.arms import bundled, states_of, stops_of, with_texts
from benchmarks.bench import Bench
from benchmarks.variants import HISTORY, variant
from encoders.examples import Ints
from encoders.personalizer import EventBatch
from encoders.training import Trained
from schemas.states import StateBatch
from store.packing import bundle_spec, pack, records

#: Users whose states are measured, and the night that is timed: so many users with one new event each.
MEASURED, NIGHT = 50, 20
QUERIES = 20


def costs(bench: Bench, trained: Trained, arm: str, rows: Ints) -> dict[str, float]:
    """Measured on users of ``rows``: bytes as a bundle's Arrow holds them, one query at a time, one night without text encoding."""
    examples, spec, aggregator = variant(arm, bench.examples, 0), trained.aggregator.spec, trained.aggregator
    parts = (trained.aggregator, trained.head, trained.adapter)
    weights = {id(p): p.numel() for part in parts for p in part.parameters() if p.requires_grad}
    column_widths = [c.width * (spec.capacity if c.per == "item" else 1) for c in spec.columns if c.head]
    _, place = np.unique(examples.user[rows], return_index=True)
    chosen = rows[place][:MEASURED]
    stops = stops_of(examples, chosen)
    packed, bytes_each = bundle_spec(spec, states_of(arm)), []
    for first, stop in zip(examples.first[chosen], stops, strict=True):
        events = np.arange(max(first, stop - HISTORY), stop)
        batch = examples.events(events, np.zeros(len(events), np.int64))
        state = aggregator.update(StateBatch.empty(1, spec), batch)
        bytes_each.append(records(np.zeros(1, np.int64), pack(state, packed), packed).nbytes)
    full = aggregator.update(StateBatch.empty(1, spec), _busy(bench))
    inputs = bundled(full, aggregator, states_of(arm))
    query, now = torch.randn(1, examples.vectors.shape[1]), torch.tensor([int(examples.now.max())])
    taken = []
    with torch.no_grad():
        for _ in range(QUERIES):
            began = time.perf_counter()
            trained.head(trained.adapter(query), now, inputs)
            taken.append(time.perf_counter() - began)
    some = examples.first[chosen][:NIGHT]
    before = aggregator.update(StateBatch.empty(len(some), spec), _untexted(examples.events(some, np.arange(len(some)))))
    news = with_texts(bench, examples.events(some + 1, np.arange(len(some))), some + 1)
    began = time.perf_counter()
    aggregator.update(before, news)
    return {
        "trained_params": float(sum(weights.values())),
        "stored_params_per_user": float(sum(column_widths)),
        "stored_bytes_per_user": float(np.mean(bytes_each)),
        "stored_bytes_at_512_items": float(records(np.zeros(1, np.int64), pack(full, packed), packed).nbytes),
        "ms_per_query": 1_000 * float(np.median(taken)),
        "night_seconds": time.perf_counter() - began,
    }


def _busy(bench: Bench) -> EventBatch:
    """A user with ``HISTORY`` items."""
    examples = bench.examples
    events = np.resize(np.arange(min(HISTORY, len(examples.ts))), HISTORY)
    batch = examples.events(events, np.zeros(HISTORY, np.int64))
    ts = np.arange(HISTORY) * 3_600 + int(examples.ts.min())
    return EventBatch(batch.user, ts, np.arange(HISTORY), batch.text, batch.target, batch.value)


def _untexted(batch: EventBatch) -> EventBatch:
    """No texts, no targets: no row is fitted."""
    return EventBatch(batch.user, batch.ts, batch.key, batch.text, batch.target, batch.value)
