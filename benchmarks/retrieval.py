"""Which items of a history stand in a prompt: the latest, or those that share the query's words."""

import re
from collections import Counter

import numpy as np

from encoders.examples import Ints

#: Items a prompt shows at most.
SHOWN = 4


def latest(items: list[str], query: str) -> Ints:
    """Places of the ``SHOWN`` last items, in their order."""
    return np.arange(len(items))[-SHOWN:]


def bm25(items: list[str], query: str, k: float = 1.5, b: float = 0.75) -> Ints:
    """Places of the ``SHOWN`` items of the highest BM25, the best last; ties by age."""
    words = [re.findall(r"[a-z0-9]+", item.lower()) for item in items]
    counts = [Counter(w) for w in words]
    mean = max(1.0, float(np.mean([len(w) for w in words] or [1])))
    score = np.zeros(len(items))
    # In the query's order: sums in the order of a set differ in their last bit from process to process, and so did ties.
    for word in dict.fromkeys(re.findall(r"[a-z0-9]+", query.lower())):
        holds = np.array([c[word] for c in counts], np.float64)
        rare = np.log(1 + (len(items) - (holds > 0).sum() + 0.5) / ((holds > 0).sum() + 0.5))
        score += rare * holds * (k + 1) / (holds + k * (1 - b + b * np.array([len(w) for w in words]) / mean))
    return np.argsort(score, kind="stable")[-SHOWN:]
