"""LaMP's metrics, as its official evaluation computes them.

Decoding: one for all arms, greedy. LaMP's own runs use 4 beams.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

Floats = npt.NDArray[np.float64]


def label_index(answers: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Each answer's place among the labels, stripped and matched exactly; -1 where it is none of them."""
    place = {label: index for index, label in enumerate(labels)}
    return np.array([place.get(answer.strip(), -1) for answer in answers], np.int64)


def accuracy(answers: Sequence[str], golds: Sequence[str], labels: Sequence[str]) -> float:
    """Share of answers that are their gold label (LaMP-1, LaMP-2)."""
    return float(np.mean(label_index(answers, labels) == label_index(golds, labels)))


def macro_f1(answers: Sequence[str], golds: Sequence[str], labels: Sequence[str]) -> float:
    """F1 averaged over the full list of labels (LaMP-2): an answer that is no label is a miss, a label that never occurs scores 0."""
    return macro_f1_of(label_index(answers, labels), label_index(golds, labels), len(labels))


def macro_f1_of(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], labels: int) -> float:
    """As ``macro_f1``, of places."""
    return float(f1_score(wanted, found, labels=np.arange(labels), average="macro", zero_division=0))


def score_errors(answers: Sequence[str], golds: Sequence[str]) -> Floats:
    """Error of each answer as a number (LaMP-3); one that is none counts as the end of the scale, 1 or 5, that is farther from its gold."""
    return np.array([_score(answer, float(gold)) - float(gold) for answer, gold in zip(answers, golds, strict=True)])


def _score(answer: str, gold: float) -> float:
    try:
        return float(answer)
    except ValueError:
        return 1.0 if abs(1 - gold) > abs(5 - gold) else 5.0


def mae(answers: Sequence[str], golds: Sequence[str]) -> float:
    """Mean absolute error."""
    return float(np.abs(score_errors(answers, golds)).mean())


def rmse(answers: Sequence[str], golds: Sequence[str]) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.square(score_errors(answers, golds)).mean()))


def rouge(answers: Sequence[str], golds: Sequence[str]) -> dict[str, Floats]:
    """F-measures of each answer, ``rouge1`` and ``rougeL``, without stemming; their plain mean is LaMP's figure but for its bootstrap."""
    scores = [_scorer().score(gold.strip(), answer.strip()) for answer, gold in zip(answers, golds, strict=True)]
    return {name: np.array([score[name].fmeasure for score in scores]) for name in ("rouge1", "rougeL")}


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
