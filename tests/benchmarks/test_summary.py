"""What the tables come to: the better rival is chosen by the metric's own direction, and words follow the intervals."""

from typing import Any

import pytest

from benchmarks.summary import PAPERS, SIMPLER, rivalries, summary

CELL = {"task": "rating", "data": "movielens", "split": "known"}


def figures(metric: str, seeds: int = 3, **means: float) -> list[dict[str, Any]]:
    costs = {"tide": 6_000.0, "tapper": 800_000.0, "pplug": 400_000.0}
    about = {**CELL, "metric": metric, "seeds": seeds, "users": 40, "examples": 100}
    sizes = lambda arm: {"stored_bytes_at_512_items": costs.get(arm), "stored_bytes_per_user": costs.get(arm, 0) / 2}  # noqa: E731
    return [{**about, "arm": arm.replace("_", "-"), "mean": mean, **sizes(arm)} for arm, mean in means.items()]


def verdict(metric: str, against: str, gain: float, low: float, high: float, arm: str = "tide") -> dict[str, Any]:
    return {
        **CELL,
        "metric": metric,
        "arm": arm,
        "against": against,
        "difference": gain,
        "low": low,
        "high": high,
        "seeds": 3,
        "users": 40,
        "by_seed": [gain] * 3,
    }


@pytest.mark.parametrize(("metric", "better"), [("mae", "tapper"), ("nll", "tapper"), ("accuracy", "pplug"), ("rougeL", "pplug")])
def test_the_better_rival_has_the_lower_error_or_the_higher_score(metric: str, better: str) -> None:
    rows = figures(metric, tide=0.6, tapper=0.5, pplug=0.7)
    pairs = [verdict(metric, arm, 0.1, 0.05, 0.15) for arm in PAPERS]
    (found,) = rivalries(rows, pairs, PAPERS)
    assert (found.rival["arm"], found.rival["mean"]) == (better, 0.5 if better == "tapper" else 0.7)


def test_a_rival_with_a_shorter_bank_counts_where_it_ran_and_is_better() -> None:
    pairs = [verdict("nll", arm, 0.1, 0.05, 0.15) for arm in (*PAPERS, *SIMPLER)]
    rows = figures("nll", tide=0.6, tapper=0.8, pplug=0.7, none=0.9)
    for more, rival in (({"tapper_64_items": 0.65}, "tapper-64-items"), ({"tapper_64_items": 0.75}, "pplug")):
        (found,) = rivalries([*rows, *figures("nll", **more)], pairs, PAPERS, SIMPLER)
        assert found.rival["arm"] == rival
    (found,) = rivalries([*rows, *figures("nll", seeds=1, tapper_64_items=0.65)], pairs, PAPERS, SIMPLER)
    assert found.rival["arm"] == "pplug"


def test_a_cell_that_tells_nobody_apart_is_left_out() -> None:
    pairs = [verdict("nll", arm, 0.1, 0.05, 0.15) for arm in PAPERS]
    rows = figures("nll", tide=0.6, tapper=0.7, pplug=0.8, none=0.9)
    assert len(rivalries(rows, pairs, PAPERS)) == 1
    assert rivalries([{**row, "users": 29} for row in rows], pairs, PAPERS) == []
    assert len(rivalries(figures("nll", tide=0.89, tapper=0.9, pplug=0.9, none=0.9), pairs, PAPERS)) == 1
    assert rivalries(figures("nll", tide=0.892, tapper=0.9, pplug=0.9, none=0.9), pairs, PAPERS) == [], "no prefix moves the LLM"
    assert rivalries(rows, [{**pair, "seeds": 1} for pair in pairs], PAPERS) == [], "of two seeds the arms had unequal training"


def test_a_cell_without_all_rivals_or_with_other_seeds_is_left_out() -> None:
    pairs = [verdict("nll", arm, 0.1, 0.05, 0.15) for arm in PAPERS]
    lacking = figures("nll", tide=0.6, tapper=0.7)
    unequal = [*lacking, *figures("nll", seeds=1, pplug=0.8)]
    assert rivalries(lacking, pairs, PAPERS) == rivalries(unequal, pairs, PAPERS) == []
    assert summary(lacking, pairs) == []


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.001, 0.2, "better"),
        (-0.006, 0.2, "no worse"),
        (-0.006, -0.001, "worse, within the line"),
        (-0.007, 0.2, "not clear"),
        (-0.3, -0.1, "worse"),
    ],
)
def test_the_line_is_a_hundredth_of_the_rivals_loss(low: float, high: float, told: str) -> None:
    rows = figures("nll", tide=0.6, tapper=0.65, pplug=0.7)
    page = "\n".join(summary(rows, [verdict("nll", arm, 0.05, low, high) for arm in PAPERS]))
    assert f"| 0.600 | tapper 0.650 | +0.0500 | {low:+.4f} to {high:+.4f} | {told} | +0.050 +0.050 +0.050 |" in page
    assert "at 512 items 6,000 and 800,000, 133 times; the mean user judged 3,000 and 400,000, 133 times" in page


def test_controls_are_told_with_their_intervals() -> None:
    rows = figures("nll", tide=0.6, tapper=0.65, pplug=0.7)
    pairs = [verdict("nll", arm, 0.05, 0.01, 0.1) for arm in PAPERS]
    pairs.append(verdict("nll", "default", -0.002, -0.004, 0.001, arm="tide-shuffled-users"))
    page = "\n".join(summary(rows, pairs))
    assert "(`tide-shuffled-users`, `default`), gain: rating (movielens) known nll -0.0020 (-0.0040 to +0.0010)." in page
    assert "(`default`, `none`)" not in page


def test_cells_of_few_users_are_named_where_they_are_left_out() -> None:
    rows = figures("nll", tide=0.6, tapper=0.7, pplug=0.8, none=0.9)
    pairs = [verdict("nll", arm, 0.1, 0.05, 0.15) for arm in PAPERS]
    assert "left out" not in "\n".join(summary(rows, pairs))
    few = [{**row, "split": "new", "users": 29} for row in rows]
    pairs.append({**verdict("nll", "none", 0.2, 0.1, 0.3, arm="default"), "split": "new", "users": 29})
    page = "\n".join(summary([*rows, *few], pairs))
    assert "left out here and found under *Figures* and *Verdicts*: rating (movielens) new." in page
    assert "(`default`, `none`)" not in page
