"""Learning rates are those of the least loss on examples held out, by the kept figures."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.rates import NEAR, SAME, TRIED, USUAL, rate_of, rate_rows

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TASKS = [
    ("news-category", "huffpost"),
    ("rating", "movielens"),
    ("commit-area", "git"),
    ("news-headline", "huffpost"),
    ("commit-subject", "git"),
]


def test_each_rate_is_the_best_of_those_tried() -> None:
    tried = defaultdict[tuple[str, str, str], dict[float, dict[str, Any]]](dict)
    for row in json.loads((RESULTS / "rates.json").read_text()):
        tried[row["task"], row["data"], row["method"]][row["learning_rate"]] = row
    assert set(tried) == {(task, data, method) for task, data in TASKS for method in USUAL}
    for (task, _, method), found in tried.items():
        chosen, first = rate_of(task, method), {rate: row["by_seed"][0] for rate, row in found.items()}
        if max(first.values()) - min(first.values()) < SAME:
            assert chosen == TRIED[1], (task, method)
            continue
        near = [rate for rate, loss in first.items() if loss < min(first.values()) + NEAR]
        assert {found[rate]["seeds"] for rate in near} == {3}, (task, method)
        assert chosen == min(near, key=lambda rate, rows=found: rows[rate]["held_out"]), (task, method)
        place = TRIED.index(chosen)
        assert set(TRIED[max(0, place - 1) : place + 2]) <= set(found), (task, method)


def test_arms_have_their_methods_rate_and_those_that_are_not_trained_none() -> None:
    for task in ("commit-area", "another"):
        assert {rate_of(task, arm) for arm in ("tide-window", "tide-int8", "tide-shuffled-users")} == {rate_of(task, "tide")}
        assert rate_of(task, "tapper-64-items") == rate_of(task, "tapper")
        assert rate_of(task, "bm25") == 0


def test_losses_are_by_seed_and_of_the_last_night_at_rates_that_are_tried() -> None:
    of = {"task": "t", "data": "d", "llm": "f", "content": "c"}
    about = {**of, "arm": "tide", "seed": 1, "held_out": 0.5, "budget": {"lag": 0, "learning_rate": 1e-3}}
    first = {**about, "seed": 0, "held_out": 0.25}
    others = [{**about, "arm": "tide-slots"}, {**about, "budget": {"lag": 7, "learning_rate": 1e-3}}]
    others += [{**about, "budget": {"lag": 0, "learning_rate": 1.0}}, {**of, "arm": "none", "seed": 0}]
    row = {**of, "method": "tide", "learning_rate": 1e-3, "held_out": 0.375, "by_seed": [0.25, 0.5], "seeds": 2}
    assert rate_rows([about, first, *others]) == [row]
