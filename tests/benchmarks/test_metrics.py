"""LaMP's metrics against cases worked by hand."""

import numpy as np
import pytest

from benchmarks.metrics import accuracy, label_index, macro_f1, mae, rmse, rouge, score_errors

LABELS = ["crime", "sports", "travel", "wellness"]


def test_answers_match_labels_stripped_and_exactly() -> None:
    assert label_index([" crime ", "Crime", "sport", "wellness\n", ""], LABELS).tolist() == [0, -1, -1, 3, -1]


def test_f1_is_over_the_full_list_of_labels() -> None:
    """crime: 1 of 2 found, nothing else called crime: F1 2/3. sports: found, and called once more: 2/3. travel, wellness: 0."""
    golds = ["crime", "crime", "sports", "travel"]
    answers = ["crime", "nonsense", "sports", "sports"]
    assert accuracy(answers, golds, LABELS) == 0.5
    assert macro_f1(answers, golds, LABELS) == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)


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
    ],
)
def test_an_answer_that_is_no_number_counts_as_the_farther_end(answer: str, gold: str, error: float) -> None:
    assert score_errors([answer], [gold]).tolist() == [error]


def test_mae_and_rmse() -> None:
    answers, golds = ["4", "x", "2.5"], ["5", "1", "2.5"]
    assert mae(answers, golds) == pytest.approx(5 / 3)
    assert rmse(answers, golds) == pytest.approx(np.sqrt(17 / 3))


def test_rouge_is_the_f_measure_without_stemming() -> None:
    """'the cat sat' against 'The cats sat down': two of three words, two of four, in order: 2·(2/3)(1/2)/(2/3+1/2) = 4/7."""
    scores = rouge(["the cat sat", "sat the", "", "naïve café"], ["The cats sat down", "the mat sat", "word", "nave caf"])
    assert scores["rouge1"].tolist() == pytest.approx([4 / 7, 4 / 5, 0.0, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)])
    assert scores["rougeL"].tolist()[:3] == pytest.approx([4 / 7, 2 / 5, 0.0])
