"""Training aggregator, query adapter and head together, through the frozen LLM."""

from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from encoders.adapter import QueryAdapter
from encoders.examples import Examples, Ints
from encoders.llm import FrozenLLM
from encoders.personalizer import Aggregator, Head
from encoders.registry import new_aggregator, new_head
from encoders.relabelling import batches
from schemas.config import Config, TrainConfig
from schemas.errors import InputError

#: Share of the steps over which the naming loss fades out.
WARM_UP = 0.5
#: Distinct targets, at most, from which a head learns to say targets.
NAMES = 4096


@dataclass(frozen=True)
class Trained:
    """What training gives: the modules at their best evaluation, and what was measured there."""

    aggregator: Aggregator
    adapter: QueryAdapter
    head: Head
    metrics: dict[str, Any]


class Model(nn.Module):
    """The trained parts as one module: examples to prefixes."""

    def __init__(self, aggregator: Aggregator, adapter: QueryAdapter, head: Head, config: TrainConfig) -> None:
        super().__init__()
        self.aggregator, self.adapter, self.head, self.config = aggregator, adapter, head, config

    def prefix(
        self,
        examples: Examples,
        rows: Ints,
        *,
        histories: Ints | None = None,
        lag_nights: Ints | int = 0,
        keep: np.ndarray | None = None,
        masked_query: bool = False,
    ) -> Tensor:
        """Prefixes of the examples ``rows``, float32 ``[n, L, d]``.

        Args:
            histories: examples whose histories are used in their stead (another user's), cut at the same nights.
            lag_nights, keep: as in ``Examples.histories``.
            masked_query: give the static prefix.
        """
        device = next(self.parameters()).device
        events = examples.histories(
            rows if histories is None else histories, lag_nights=lag_nights, keep=keep, size=self.config.history, now=examples.now[rows]
        )
        state = {name: x.to(device) for name, x in self.aggregator(len(rows), events).items()}
        whose = examples.user[rows if histories is None else histories]
        state.update(self.head.training_state(whose, np.ones(len(rows), bool) if keep is None else keep))
        self.head.bind(self.aggregator)
        now, task = (torch.from_numpy(x[rows]).to(device) for x in (examples.now, examples.task))
        index = examples.query[rows]
        if masked_query or (index < 0).all():
            return self.head(None, now, state, task)
        query = torch.from_numpy(examples.vectors[index]).to(device).float()
        return self.head(self.adapter(query), now, state, task)


@torch.no_grad()
def evaluate(model: Model, llm: FrozenLLM, examples: Examples, rows: Ints, seed: int) -> dict[str, Any]:
    """Mean target loss and exact-answer accuracy with the right user's state, with none (default), and with a stranger's.

    Returns:
        ``{"loss": {"right", "default", "wrong"}, "accuracy": {...}}`` over the examples ``rows``; where there are tasks, the same of each
        that one of them asks, under ``"tasks"`` by name.
    """
    model.eval()
    strangers = examples.strangers(rows, np.random.default_rng(seed))
    arms: dict[str, dict[str, Any]] = {"right": {}, "default": {"keep": False}, "wrong": {"histories": strangers}}
    found: dict[str, dict[str, Tensor]] = {"loss": {}, "accuracy": {}}
    for name, options in arms.items():
        losses, rights = [], []
        for start in range(0, len(rows), model.config.batch_size):
            part = slice(start, start + model.config.batch_size)
            batch, chosen = rows[part], dict(options)
            if "keep" in chosen:
                chosen["keep"] = np.zeros(len(batch), bool)
            if "histories" in chosen:
                chosen["histories"] = strangers[part]
            prefix = model.prefix(examples, batch, **chosen)
            loss, right = llm.loss(prefix, [examples.prompts[i] for i in batch], [examples.targets[i] for i in batch])
            losses.append(loss)
            rights.append(right)
        found["loss"][name], found["accuracy"][name] = torch.cat(losses).cpu(), torch.cat(rights).float().cpu()
    model.train()
    out: dict[str, Any] = _means(found, np.ones(len(rows), bool))
    each = {name: examples.task[rows] == number for number, name in enumerate(examples.tasks)}
    return {**out, "tasks": {name: _means(found, mine) for name, mine in each.items() if mine.any()}} if each else out


def _means(found: dict[str, dict[str, Tensor]], chosen: npt.NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """Means over the chosen examples, by figure and arm."""
    return {
        figure: {arm: round(float(each[torch.from_numpy(chosen)].mean()), 6) for arm, each in arms.items()}
        for figure, arms in found.items()
    }


def naming_loss(prefix: Tensor, head: Head, llm: FrozenLLM, targets: list[str], task: Tensor) -> Tensor:
    """Warm-up: ``mean((P - P_neutral - emb(target))²) / mean(emb²)``, so that ΔP starts as the target's expected token embedding.

    ``P_neutral`` is that of each example's task, int64 ``[n]``. Token cross-entropy alone finds no direction at first: a frozen LLM answers
    only to what looks like its own embeddings.
    """
    wanted = llm.target_embeddings(targets)
    gap = prefix - head.neutral_prefix(task).detach() - wanted[:, None]
    return gap.square().mean() / wanted.square().mean()


def _learn_names(head: Head, aggregator: Aggregator, examples: Examples, rows: Ints, llm: FrozenLLM, seed: int) -> None:
    """Show a head the distinct targets of the examples ``rows``; none where no event has a target, and what is asked for is a text."""
    if not (examples.target[examples.seen(rows)] >= 0).any():
        return
    _, named = np.unique(examples.answer[rows], return_index=True)
    named = rows[np.random.default_rng(seed).permutation(named)[:NAMES]]
    vectors = torch.from_numpy(examples.vectors[examples.answer[named]]).float()
    head.learn_names(aggregator, vectors, llm.target_embeddings([examples.targets[i] for i in named]).cpu())


def train(
    examples: Examples,
    llm: FrozenLLM,
    config: Config,
    progress: Callable[[int, dict[str, Any]], None] | None = None,
    *,
    aggregator: Aggregator | None = None,
) -> Trained:
    """Train on all but the latest examples, stop when the latest (held out) no longer gain, return the best.

    Args:
        aggregator: one to use instead of a new one, its scales set; where it is frozen, only a head for it is trained.
        progress: called after each step with 1 and the running figures.
    """
    settings = config.train
    order = np.argsort(examples.now, kind="stable")
    held = max(1, int(len(order) * settings.held_out))
    training, held_out = order[:-held], order[-held:]
    rng = np.random.default_rng(config.seed)
    if len(held_out) > settings.evaluated:
        held_out = np.sort(rng.choice(held_out, settings.evaluated, replace=False))
    text_dim = examples.vectors.shape[1]
    if aggregator is None:
        aggregator = new_aggregator(config, text_dim, (settings.prefix_length, llm.dim))
        seen = examples.seen(training)
        aggregator.fit_scales(examples.events(seen, np.zeros(len(seen), np.int64)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        neutral, frozen = llm.neutral_prefix(settings.prefix_length)
        head = new_head(config, text_dim, llm.dim, neutral, llm.embedding_rms(examples.prompts[:2000]), frozen)
        head.align(aggregator)
        _learn_names(head, aggregator, examples, training, llm, config.seed)
        head.learn_bridge(llm)
        head.learn_rows(int(examples.user.max()) + 1)
        head.learn_tasks(examples.tasks)
        model = Model(aggregator, QueryAdapter(text_dim), head, settings).to(llm.device)
    with ExitStack() as stack:
        if head.bridge:
            # Putting it on the LLM draws random numbers, and so does its dropout.
            stack.enter_context(torch.random.fork_rng())
            torch.manual_seed(config.seed)
            stack.enter_context(head.bridge.over(llm))
        metrics = _descend(model, llm, examples, training, held_out, rng, config, progress)
    model = model.cpu().eval()
    model.head.forget_rows()
    return Trained(model.aggregator, model.adapter, model.head, {**metrics, "examples": len(training), "held_out": len(held_out)})


def _descend(
    model: Model,
    llm: FrozenLLM,
    examples: Examples,
    training: Ints,
    held_out: Ints,
    rng: np.random.Generator,
    config: Config,
    progress: Callable[[int, dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Take the steps, leave the model at its best evaluation, and tell that one's figures."""
    settings = config.train
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.01)
    warm = max(1, settings.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / warm) * (1 - 0.9 * i / settings.steps))
    best: dict[str, Any] = {"loss": {"right": float("inf")}}
    best_weights, stale, step = deepcopy(model.state_dict()), 0, 0
    drawn = batches(examples, training, settings.batch_size, settings.relabelled if model.aggregator.relabelled else 0, rng)
    # The range first: nothing is drawn beyond the last step.
    for step, (shown, rows, copy) in zip(range(1, settings.steps + 1), drawn, strict=False):
        prefix = model.prefix(
            shown,
            rows,
            lag_nights=rng.integers(0, settings.max_lag_nights + 1, len(rows)),
            # Without its history a copy says nothing, and the default prefix is of everyone's labels as they are.
            keep=copy | (rng.random(len(rows)) >= settings.history_dropout),
            masked_query=bool(rng.random() < settings.query_dropout),
        )
        targets = [shown.targets[i] for i in rows]
        loss = llm.loss(prefix, [shown.prompts[i] for i in rows], targets)[0].mean()
        warmth = 1 - step / (settings.steps * WARM_UP)
        if warmth > 0:
            loss = loss + warmth * naming_loss(prefix, model.head, llm, targets, torch.from_numpy(shown.task[rows]).to(prefix.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        if progress:
            progress(1, {"loss": float(loss.detach())})
        if step % settings.evaluate_every == 0 or step == settings.steps:
            found = evaluate(model, llm, examples, held_out, config.seed)
            if found["loss"]["right"] < best["loss"]["right"]:
                best, best_weights, stale = {**found, "step": step}, deepcopy(model.state_dict()), 0
            else:
                stale += 1
            if stale >= settings.patience:
                break
    if "accuracy" not in best:
        raise InputError("training gave no finite loss", mend="a smaller train.learning_rate in config.toml, then tapstate train")
    model.load_state_dict(best_weights)
    return {**best, "steps": step}
