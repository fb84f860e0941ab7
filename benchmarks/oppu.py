"""OPPU (arXiv 2402.04401): for each user a LoRA of the LLM, tuned on the user's own past, and no prefix.

Rank 8 on queries and values, alpha 8, as its authors have it. Two epochs at their rate (1e-4, for 7 billion parameters) leave this
benchmark's small LLM where it was, so rate and epochs are larger. It is judged on the ``USERS`` users of the longest histories only.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from benchmarks.arms import ROW_HISTORY, Outcome, judge, stops_of
from benchmarks.bench import Bench
from encoders.examples import Ints
from encoders.llm import FrozenLLM
from encoders.prompts import render

USERS = 20
EPOCHS, BATCH, RATE = 3, 8, 1e-3


def personal(bench: Bench, llm: FrozenLLM, rows: Ints, seed: int) -> tuple[Outcome, dict[str, float]]:
    """Outcome of the chosen users' examples among ``rows``, each under a LoRA of what was known the night before the first of them.

    Returns:
        the outcome, and what a user costs.
    """
    examples = bench.examples
    users = np.unique(examples.user[rows])
    early = np.array([mine[np.argmin(examples.now[mine])] for mine in (rows[examples.user[rows] == user] for user in users)])
    length = stops_of(examples, early) - examples.first[early]
    chosen = np.sort(np.argsort(-length, kind="stable")[:USERS])
    parts, seconds = [], 0.0
    for user, first in zip(users[chosen], early[chosen], strict=True):
        began = time.perf_counter()
        stop = int(stops_of(examples, np.array([first]))[0])
        with _adapted(bench, llm, np.arange(max(examples.first[first], stop - ROW_HISTORY), stop), seed) as params:
            seconds += time.perf_counter() - began
            parts.append(judge(bench, llm, rows[examples.user[rows] == user], lambda batch: torch.zeros(len(batch), 0, llm.dim)))
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    event, owner, history = (np.concatenate([getattr(part, name) for part in parts]) for name in ("event", "user", "history"))
    whole = Outcome(event, owner, history, columns)
    stored = {"stored_bytes_per_user": 4.0 * params, "stored_bytes_at_512_items": 4.0 * params}
    return whole, {"trained_params": float(params), "stored_params_per_user": float(params), **stored, "night_seconds": seconds}


@contextmanager
def _adapted(bench: Bench, llm: FrozenLLM, events: Ints, seed: int) -> Iterator[int]:
    """The LLM under a LoRA tuned on the targets of ``events``, for a while; gives the LoRA's parameters."""
    asked = [i for i in events if bench.targets[i] is not None]
    prompts = [render(llm.config.prompt, bench.texts[i][: bench.task.characters]) for i in asked]
    targets = [bench.targets[i] for i in asked]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(llm.model, LoraConfig(r=8, lora_alpha=8, target_modules=["query", "value"]))
        learned = [p for p in adapted.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.01)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(asked)).split(BATCH):
                prefix = torch.zeros(len(batch), 0, llm.dim)
                loss = llm.loss(prefix, [prompts[i] for i in batch], [targets[i] for i in batch])[0].mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(learned, 0.3)
                optimizer.step()
    try:
        adapted.requires_grad_(False)
        yield sum(p.numel() for p in learned)
    finally:
        adapted.unload()
