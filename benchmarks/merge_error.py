"""Many nightly merges against one rebuild in float64, with events in order of time and shuffled.

``python -m benchmarks.merge_error --nights 365 [--users 64] [--seed 0] --output json`` prints one JSON object;
``max_abs_difference`` is the largest over both orders of arrival. Every night goes through
``Tide.update`` and the store's own types (S float32, m float64).
"""

import json
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from encoders import slots, tide
from encoders.personalizer import EventBatch
from encoders.registry import new_aggregator
from encoders.tide import Tide
from schemas.config import Config
from schemas.states import StateBatch

DAY = 86_400
START = 1_577_836_800
TEXT_DIM = 384


def run(
    nights: Annotated[int, typer.Option(help="Nights, one merge each.")] = 365,
    users: Annotated[int, typer.Option(help="Users; each has one to four events a night.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of weights and events.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    # A night here is a handful of events: codes come in blocks of that size, where thousands would be padding.
    tide.BLOCK = 64
    aggregator = new_aggregator(Config(seed=seed), TEXT_DIM)
    assert isinstance(aggregator, Tide)
    rng = np.random.default_rng(seed)
    events = _events(rng, nights, users)
    wanted = _rebuild(aggregator, events, users)
    chronological = np.argsort(events.ts, kind="stable")
    found = {
        "chronological": _difference(_nightly(aggregator, events, chronological, nights, users), wanted),
        "shuffled": _difference(_nightly(aggregator, events, rng.permutation(len(events)), nights, users), wanted),
    }
    result = {"max_abs_difference": max(found.values()), **found, "nights": nights, "users": users, "events": len(events), "seed": seed}
    print(json.dumps(result))


def _events(rng: np.random.Generator, nights: int, users: int) -> EventBatch:
    """Events spread over all nights; texts are drawn from unit vectors, as the encoder gives them."""
    night, user = (x.reshape(-1) for x in np.meshgrid(np.arange(nights), np.arange(users), indexing="ij"))
    repeats = rng.integers(1, 5, len(night))
    night, user = np.repeat(night, repeats), np.repeat(user, repeats)
    texts = rng.standard_normal((2_000, TEXT_DIM)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    count = len(night)
    return EventBatch(
        user=user.astype(np.int64),
        ts=(START + night * DAY + rng.integers(0, DAY, count)).astype(np.int64),
        key=rng.integers(-(2**63), 2**63 - 1, count),
        text=texts[rng.integers(0, len(texts), count)].astype(np.float16),
        target=texts[rng.integers(0, 20, count)].astype(np.float16),
        value=rng.standard_normal(count).astype(np.float32),
    )


def _take(events: EventBatch, rows: npt.NDArray[np.int64]) -> EventBatch:
    return EventBatch(*(getattr(events, name)[rows] for name in ("user", "ts", "key", "text", "target", "value")))


def _nightly(aggregator: Tide, events: EventBatch, order: npt.NDArray[np.int64], nights: int, users: int) -> StateBatch:
    """One merge a night of the events in this order of arrival, each through the types of the store's columns."""
    states = StateBatch.empty(users, aggregator.spec)
    for rows in np.array_split(order, nights):
        updated = aggregator.update(states, _take(events, rows))
        states = StateBatch.from_arrow(updated.to_arrow(aggregator.spec), aggregator.spec)
    return states


def _rebuild(aggregator: Tide, events: EventBatch, users: int) -> npt.NDArray[np.float64]:
    """``S``, ``[users, K, D]``, from all events at once, every sum in float64; codes as the personalizer computes them."""
    found = []
    weight, bias = aggregator.value.weight.double(), aggregator.value.bias.double()
    for user in range(users):
        mine = _take(events, np.flatnonzero(events.user == user))
        alone = EventBatch(np.zeros_like(mine.user), mine.ts, mine.key, mine.text, mine.target, mine.value)
        blocks = aggregator._blocks(alone, np.lexsort((mine.key, mine.ts)))
        parts: list[Any] = [(rows, score.double(), hidden.double()) for _, rows, _, score, hidden in blocks]
        index = np.concatenate([part[0] for part in parts])
        score, hidden = (torch.cat([part[i] for part in parts]) for i in (1, 2))
        value = torch.nn.functional.linear(hidden, weight, bias).view(len(index), aggregator.config.slots, -1)
        only = torch.zeros(len(index), dtype=torch.int64)
        found.append(slots.gather(only, 1, score, value, torch.from_numpy(mine.ts[index]), aggregator.decay()).total[0].numpy())
    return np.stack(found)


def _difference(states: StateBatch, wanted: npt.NDArray[np.float64]) -> float:
    return float(np.abs(states.columns["slot_sum"].astype(np.float64).reshape(wanted.shape) - wanted).max())


if __name__ == "__main__":
    with torch.no_grad():
        typer.run(run)
