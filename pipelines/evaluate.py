"""Evaluation from a bundle's own bytes: what the LLM makes of the right user's prefix, of the default one, of another user's."""

from contextlib import nullcontext

import numpy as np
import polars as pl
import torch

from encoders.bridge import Bridge
from encoders.llm import FrozenLLM
from encoders.prompts import render
from schemas.errors import LeakError
from store.client import Bundle

ARMS = ("right", "default", "wrong")
BATCH = 64
#: No user has this id, so it gets the default prefix.
NOBODY = "\x00nobody"


def evaluate_bundle(bundle: Bundle, llm: FrozenLLM, events: pl.DataFrame, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Mean target loss and exact-answer accuracy over events that came after the bundle's version.

    Args:
        llm: without the bundle's bridge, if it has one, which it carries here.
        events: ``user_id, ts`` (seconds)``, text, target``, and ``task`` where the bundle has tasks.

    Raises:
        LeakError: an event that is not later than what the bundle's states may know.

    Returns:
        ``{"loss": {"right", "default", "wrong"}, "accuracy": {...}}``.
    """
    as_of = bundle.manifest["as_of"]
    early = events.filter(pl.col("ts") <= as_of)
    if len(early):
        raise LeakError(
            f"{len(early)} of {len(events)} events are not later than the bundle's as_of, {as_of}: its states may know them",
            where=str(bundle.path),
            mend="evaluate on events after it, or on the bundle of an earlier version",
        )
    users = events["user_id"].to_list()
    others = np.random.default_rng(seed).permutation(len(users))
    # A stranger is another user; rotate further wherever the permutation hit the user's own events.
    strangers = [
        next(users[(j + k) % len(users)] for k in range(len(users)) if users[(j + k) % len(users)] != users[i])
        for i, j in enumerate(others)
    ]
    ids = {"right": users, "default": [NOBODY] * len(users), "wrong": strangers}
    queries = bundle.embed(events["text"].to_list())
    tasks: list[str | None] = events["task"].to_list() if bundle.tasks else [None] * len(users)
    found: dict[str, dict[str, float]] = {"loss": {}, "accuracy": {}}
    bridge = bundle.bridge
    with Bridge.read(bridge).over(llm) if bridge else nullcontext():
        for arm in ARMS:
            losses, rights = [], []
            for start in range(0, len(users), BATCH):
                part = slice(start, start + BATCH)
                rows = events[part]
                # One query time for a batch: the head takes one a user, the client one a call.
                now = float(rows["ts"].max())  # type: ignore[arg-type]
                answer = bundle.prefix(ids[arm][part], query_embeddings=queries[part], now=now, task=tasks[part])
                prompts = [render(llm.config.prompt_of(task), text) for task, text in zip(tasks[part], rows["text"], strict=True)]
                with torch.no_grad():
                    loss, right = llm.loss(torch.from_numpy(answer.prefix), prompts, rows["target"].to_list())
                losses.append(loss)
                rights.append(right)
            found["loss"][arm] = round(float(torch.cat(losses).mean()), 4)
            found["accuracy"][arm] = round(float(torch.cat(rights).float().mean()), 4)
    return found
