"""Figures of drift that need a model: a classifier between two versions' states, and the prefixes that states become."""

from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from encoders.checkpoint import load_head
from schemas.states import StateBatch
from store.comparison import View
from store.measures import Vectors

#: Directions the classifier sees, and users that prefixes are made for.
COMPONENTS, PREFIXES = 32, 256


def domain_auc(before: Vectors, after: Vectors, seed: int) -> float:
    """How well a classifier tells ``after`` from ``before``, the same users' vectors ``[n, d]``, as AUC over held-out users.

    0.5: not at all. 1: always, as after a change of encoder or a fault that hits all users alike. A user's two rows are held out
    together; where they are equal they cannot be told apart.
    """
    rows, n = np.nan_to_num(np.concatenate([before, after]).astype(np.float64)), len(before)
    if n < 3 or not np.ptp(rows, axis=0).any():
        return 0.5
    label, user = np.repeat([0, 1], n), np.tile(np.arange(n), 2)
    # The directions are those of all rows, told without labels: found once, not once a fold.
    reduce = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, rows.shape[1], n), random_state=seed), StandardScaler())
    model = LogisticRegression(C=0.1, max_iter=500)
    score = cross_val_predict(model, reduce.fit_transform(rows), label, groups=user, cv=GroupKFold(min(5, n)), method="decision_function")
    return float(roc_auc_score(label, np.round(score, 9)))


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
