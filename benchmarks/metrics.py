"""LaMP's metrics, as its official evaluation computes them.

Decoding: one for all arms, greedy. LaMP's own runs use 4 beams.
"""

from collections.abc import Sequence
from functools import cache
from math import isfinite

import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer

Floats = npt.NDArray[np.float64]


def label_index(answers: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Each answer's place among the labels, both stripped and matched exactly; -1 where it is none of them."""
    place = {label.strip(): index for index, label in enumerate(labels)}
    return np.array([place.get(answer.strip(), -1) for answer in answers], np.int64)


def score_errors(answers: Sequence[str], golds: Sequence[str]) -> Floats:
    """Error of each answer as a number (LaMP-3); one that is none counts as the end of the scale, 1 or 5, that is farther from its gold."""
    return np.array([_score(answer, float(gold)) - float(gold) for answer, gold in zip(answers, golds, strict=True)])


def _score(answer: str, gold: float) -> float:
    try:
        if isfinite(score := float(answer)):
            return score
    except ValueError:
        pass
    return 1.0 if abs(1 - gold) > abs(5 - gold) else 5.0


def rouge(answers: Sequence[str], golds: Sequence[str]) -> dict[str, Floats]:
    """F-measures of each answer, ``rouge1`` and ``rougeL``, without stemming; their plain mean is LaMP's figure but for its bootstrap."""
    scores = [_scorer().score(gold.strip(), answer.strip()) for answer, gold in zip(answers, golds, strict=True)]
    return {name: np.array([score[name].fmeasure for score in scores]) for name in ("rouge1", "rougeL")}


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
