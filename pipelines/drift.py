"""Figures of drift that need a model: a classifier between two versions' states, and the prefixes that states become."""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from encoders.checkpoint import load_head
from schemas.states import StateBatch
from store.comparison import View
from store.measures import Vectors

#: Directions the classifier sees, its ridge, parts of users held out in turn, and users that prefixes are made for.
COMPONENTS, RIDGE, FOLDS, PREFIXES = 32, 10.0, 5, 256


def domain_auc(before: Vectors, after: Vectors, seed: int) -> float:
    """How well a linear classifier tells ``after`` from ``before``, the same users' vectors ``[n, d]``, as AUC over held-out users.

    0.5: not at all. 1: always, as after a change of encoder or a fault that hits all users alike. A user's two rows are held out
    together; where they are equal they cannot be told apart. Ridge regression on the rows' principal components.
    """
    n = len(before)
    if n < 3:
        return 0.5
    rows = torch.from_numpy(np.nan_to_num(np.concatenate([before, after]).astype(np.float64)))
    deviation = rows.std(0, correction=0)
    if not deviation.any():
        return 0.5
    standard = (rows - rows.mean(0)) / torch.where(deviation > 0, deviation, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The directions are those of all rows, told without labels: found once, not once a fold.
        left, values, _ = torch.pca_lowrank(standard, min(COMPONENTS, rows.shape[1], n), center=False)
    # Directions in which nothing varies are noise.
    seen = left[:, values > 1e-6 * values[0]] * (2 * n) ** 0.5
    label, fold = torch.ones(2 * n, dtype=torch.float64), torch.arange(n).repeat(2) % FOLDS
    label[:n] = -1
    score = torch.empty_like(label)
    for held in range(FOLDS):
        known, asked = seen[fold != held], seen[fold == held]
        penalty = RIDGE * torch.eye(seen.shape[1], dtype=torch.float64)
        score[fold == held] = asked @ torch.linalg.solve(known.T @ known + penalty, known.T @ label[fold != held])
    ranks = pl.Series(score.round(decimals=9).numpy()).rank("average").to_numpy()
    # Mann and Whitney: of all pairs, those in which the later row scores higher.
    return float((ranks[n:].sum() - n * (n + 1) / 2) / n**2)


def prefix_ratio(head: Path, view: View, seed: int) -> float:
    """Largest factor, up or down, between the rms of a panel user's static prefix, of any task or none, and that of the LLM's embeddings.

    Infinite where a prefix is not finite or zero; 1 if there are no users.
    """
    module, _, configuration = load_head(head)
    rows = view.panel(seed, view.users, [*view.spec.schema().names, "last_ts"]).slice(0, PREFIXES)
    if not rows.num_rows:
        return 1.0
    state = StateBatch.from_arrow(rows, view.spec).head_inputs(view.spec)
    # Copied: Arrow's memory is not to be written, and torch would have it so.
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    now = int(max(rows.column("last_ts").to_pylist()).timestamp())
    tasks = len(module.instructions.tasks) if module.instructions else 0
    asked = [torch.full((rows.num_rows,), task) for task in range(-1, tasks)]
    with torch.no_grad():
        prefix = torch.cat([module(None, torch.full_like(task, now), tensors, task) for task in asked]).double()
    ratio = (prefix.square().mean((1, 2)).sqrt() / configuration["rms"]).numpy()
    with np.errstate(divide="ignore"):
        factor = np.maximum(ratio, 1 / ratio)
    return float(np.where(np.isfinite(factor), factor, np.inf).max())
