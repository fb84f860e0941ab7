"""LaMP's metrics against cases worked by hand."""

import numpy as np
import pytest

from benchmarks.metrics import label_index, rouge, score_errors
from benchmarks.tables import Run, resampled

LABELS = ["crime", "sports", "travel", "wellness"]


def figure(metric: str, **columns: np.ndarray) -> float:
    """As the tables have it, of one run of one user."""
    run = Run({"labels": len(LABELS)}, {"user": np.zeros(len(next(iter(columns.values()))), np.int64), **columns})
    return float(resampled(metric, [run], np.ones((1, 1), np.int64), np.zeros(1, np.int64))[0])


def test_answers_match_labels_stripped_and_exactly() -> None:
    assert label_index([" crime ", "Crime", "sport", "wellness\n", ""], LABELS).tolist() == [0, -1, -1, 3, -1]


def test_a_label_with_spaces_round_it_is_still_one() -> None:
    """Else its examples' golds would be no label, and every wrong answer right."""
    labels = ["crime", "sports "]
    assert label_index(["sports", "sports ", "nonsense"], labels).tolist() == [1, 1, -1]


def test_f1_is_over_the_full_list_of_labels() -> None:
    """crime: 1 of 2 found, nothing else called crime: F1 2/3. sports: found, and called once more: 2/3. travel, wellness: 0."""
    golds = ["crime", "crime", "sports", "travel"]
    answers = ["crime", "nonsense", "sports", "sports"]
    found, gold = label_index(answers, LABELS), label_index(golds, LABELS)
    assert figure("accuracy", accuracy=(found == gold).astype(float)) == 0.5
    assert figure("f1", found=found, gold=gold) == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)


@pytest.mark.parametrize(
    ("answer", "gold", "error"),
    [
        ("4", "5", -1.0),
        ("4.5", "3", 1.5),
        ("7", "5", 2.0),
        ("", "1", 4.0),
        ("five", "2", 3.0),
        ("score: 3", "3", 2.0),
        ("?", "4", -3.0),
        ("?", "5", -4.0),
        ("nan", "2", 3.0),
        ("-inf", "4", -3.0),
    ],
)
def test_an_answer_that_is_no_number_counts_as_the_farther_end(answer: str, gold: str, error: float) -> None:
    assert score_errors([answer], [gold]).tolist() == [error]


def test_mae_and_rmse() -> None:
    errors = score_errors(["4", "x", "2.5"], ["5", "1", "2.5"])
    assert figure("mae", mae=np.abs(errors)) == pytest.approx(5 / 3)
    assert figure("rmse", squared=np.square(errors)) == pytest.approx(np.sqrt(17 / 3))


def test_rouge_is_the_f_measure_without_stemming() -> None:
    """'the cat sat' against 'The cats sat down': two of three words, two of four, in order: 2·(2/3)(1/2)/(2/3+1/2) = 4/7."""
    scores = rouge(["the cat sat", "sat the", "", "naïve café"], ["The cats sat down", "the mat sat", "word", "nave caf"])
    assert scores["rouge1"].tolist() == pytest.approx([4 / 7, 4 / 5, 0.0, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)])
    assert scores["rougeL"].tolist()[:3] == pytest.approx([4 / 7, 2 / 5, 0.0])
