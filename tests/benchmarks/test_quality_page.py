"""The page says where its own figures are worth nothing."""

from typing import Any

import pytest

from benchmarks.report import weak


def rows(metric: str, **means: float) -> list[dict[str, Any]]:
    about = {"task": "rating", "data": "movielens", "split": "known", "metric": metric}
    return [{**about, "arm": arm.replace("_", "-"), "mean": mean} for arm, mean in means.items()]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (rows("nll", none=0.8, tide=0.799, tapper=0.81), "no prefix moves the LLM, loss 0.800 without one and 0.799 with the best"),
        (rows("nll", none=0.8, tide=0.7), ""),
        (rows("nll", none=0.8), ""),
        (rows("accuracy", none=0.5, tide=0.6, own_majority=0.7), "guessing from the user's own labels reaches 0.700"),
        (rows("accuracy", none=0.5, tide=0.6, recency=0.4), "with items in its prompt the LLM reaches 0.400, without 0.500"),
        (rows("accuracy", none=0.5, tide=0.6, own_majority=0.55, recency=0.55), ""),
    ],
)
def test_a_weak_llm_is_named(found: list[dict[str, Any]], said: str) -> None:
    lines = weak(found)
    assert bool(lines) == bool(said)
    assert said in "\n".join(lines)
