"""Aggregation alone: embeddings in, states out, on one core; against the bound that the hardware sets.

``python -m benchmarks.aggregate --output json``: ``events_per_second`` of ``Aggregator.update`` from empty states, and
``bound_events_per_second``, the slower of two rates measured in the same run on the same core: the matrix products that the update
cannot do without (at the best rate this core reaches on them), and the bytes it must read and write (at the rate of a large copy).
Whole runs are repeated in turn and the fastest of each is taken, by the process's own time: other work on the machine tells on both alike.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Annotated

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import typer

from encoders.personalizer import EventBatch
from encoders.registry import new_aggregator
from encoders.tide import BLOCK
from schemas.config import Config
from schemas.states import StateBatch

DIM = 384


def run(
    events: Annotated[int, typer.Option(help="Events, one shard's by default.")] = 65_536,
    events_per_user: Annotated[int, typer.Option(help="Events a user has.")] = 20,
    repeats: Annotated[int, typer.Option(help="Runs of each; the fastest counts.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    torch.set_num_threads(1)
    config = Config(seed=seed)
    aggregator = new_aggregator(config, DIM)
    batch, users = made(events, events_per_user, seed)
    empty = StateBatch.empty(users, aggregator.spec)
    k, d, hidden = config.tide.slots, config.tide.dim, config.tide.hidden
    # (rows, in, out): per event two projections, the hidden layer and the scores; per user the values of the K slots.
    shapes = [(events, DIM, d), (events, DIM, d), (events, d, hidden), (events, hidden, k), (users * k, hidden, d)]
    inputs = {(i, o): (torch.randn(BLOCK, i), torch.randn(i, o)) for _, i, o in shapes}
    out = {key: torch.empty(BLOCK, key[1]) for key in inputs}

    def products() -> None:
        for rows, i, o in shapes:
            for _ in range(-(-rows // BLOCK)):
                torch.mm(*inputs[i, o], out=out[i, o])

    state_bytes = sum(array.nbytes for array in aggregator.update(empty, batch).columns.values())
    traffic = batch.text.nbytes + batch.target.nbytes + state_bytes
    source, target = np.ones(1 << 26, np.uint8), np.empty(1 << 26, np.uint8)
    work = {"update": lambda: aggregator.update(empty, batch), "matmul": products, "copy": lambda: np.copyto(target, source)}
    best = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, function in work.items():
            best[name] = min(best[name], seconds(function))
    # A copy reads and writes each byte.
    bounds = {"matmul": events / best["matmul"], "memory": events / (traffic * best["copy"] / (2 * len(source)))}
    binding = min(bounds, key=lambda name: bounds[name])
    result = {
        "events_per_second": round(events / best["update"]),
        "bound_events_per_second": round(bounds[binding]),
        "ratio": round(bounds[binding] / (events / best["update"]), 2),
        "bound": binding,
        "matmul_gflops": round(2 * sum(r * i * o for r, i, o in shapes) / best["matmul"] / 1e9, 1),
        "copy_gigabytes_per_second": round(2 * len(source) / best["copy"] / 1e9, 1),
        "events": events,
        "users": users,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


def made(events: int, events_per_user: int, seed: int) -> tuple[EventBatch, int]:
    """Random unit vectors of text and target, users of equal length, times over a year; and the number of users."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((2, events, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    text, target = vectors.astype(np.float16)
    user = np.arange(events) // events_per_user
    ts = 1_700_000_000 + rng.integers(0, 365 * 86_400, events)
    value = np.full(events, np.nan, np.float32)
    return EventBatch(user, ts, rng.integers(-(2**62), 2**62, events), text, target, value), int(user[-1]) + 1


def seconds(function: Callable[[], object]) -> float:
    """Seconds that this process, of one thread, has the core for one call; alone on the machine they are the clock's."""
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    typer.run(run)
