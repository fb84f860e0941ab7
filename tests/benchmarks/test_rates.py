"""Learning rates are those of the least loss on examples held out, by the kept figures."""

import json
from collections import defaultdict
from pathlib import Path

from benchmarks.rates import TIE, TRIED, USUAL, rate_of, rate_rows

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_each_rate_is_the_best_of_those_tried() -> None:
    losses = defaultdict[tuple[str, str, str], dict[float, float]](dict)
    for row in json.loads((RESULTS / "rates.json").read_text()):
        losses[row["task"], row["data"], row["method"]][row["learning_rate"]] = row["held_out"]
    for task, data in (("news-category", "huffpost"), ("rating", "movielens"), ("commit-area", "git")):
        for method in USUAL:
            found = losses[task, data, method]
            chosen, best = rate_of(task, method), min(found, key=found.__getitem__)
            assert chosen == (TRIED[1] if max(found.values()) - found[best] < TIE else best), (task, method)
            # The rates on either side were tried, or there is none.
            place = TRIED.index(chosen)
            assert set(TRIED[max(0, place - 1) : place + 2]) <= set(found), (task, method)


def test_arms_have_their_methods_rate_and_those_that_are_not_trained_none() -> None:
    for task in ("commit-area", "another"):
        assert rate_of(task, "tide-window") == rate_of(task, "tide-int8") == rate_of(task, "tide")
        assert rate_of(task, "tide-shuffled-users") == rate_of(task, "default")
        assert rate_of(task, "tapper-64-items") == rate_of(task, "tapper")
        assert rate_of(task, "bm25") == 0


def test_losses_are_of_seed_0_and_the_last_night_at_rates_that_are_tried() -> None:
    about = {"task": "t", "data": "d", "arm": "tide", "seed": 0, "llm": "f", "held_out": 0.5, "budget": {"lag": 0, "learning_rate": 1e-3}}
    others = [{**about, "seed": 1}, {**about, "arm": "tide-slots"}, {**about, "budget": {"lag": 7, "learning_rate": 1e-3}}]
    others += [{**about, "budget": {"lag": 0, "learning_rate": 1.0}}, {"task": "t", "data": "d", "arm": "none", "seed": 0, "llm": "f"}]
    row = {"task": "t", "data": "d", "method": "tide", "learning_rate": 1e-3, "held_out": 0.5, "llm": "f"}
    assert rate_rows([about, *others]) == [row]
