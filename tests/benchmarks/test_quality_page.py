"""The page says where its own figures are worth nothing."""

from typing import Any

import pytest

from benchmarks.plots import ages
from benchmarks.report import absent
from benchmarks.sections import age_table, cost_table, live_table, quality_table, rate_table, shape_table, verdict_table, weak


def rows(metric: str, **means: float) -> list[dict[str, Any]]:
    about = {"task": "rating", "data": "movielens", "split": "known", "metric": metric, "seeds": 1, "users": 40, "examples": 100}
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
        (rows("nll", none=0.8, tide=0.7, recency=0.9, bm25=0.85), "with items in its prompt the LLM's loss is 0.850, without 0.800"),
        (rows("nll", none=0.8, tide=0.7, recency=0.9, bm25=0.75), ""),
    ],
)
def test_a_weak_llm_is_named(found: list[dict[str, Any]], said: str) -> None:
    lines = weak(found)
    assert bool(lines) == bool(said)
    assert said in "\n".join(lines)


def test_ages_stand_beside_the_last_night_of_the_same_users() -> None:
    fresh, aged = rows("nll", tide=0.6, default=0.8), rows("nll", tide=0.65)
    for row in aged:
        row["split"] = "known+7"
    assert ages(fresh + aged) == {("rating", "movielens", "known"): {"tide": {0: 0.6, 7: 0.65}}}
    assert "| rating (movielens) | known | tide | 0: 0.600, 7: 0.650 | 1 |" in age_table(fresh + aged)
    assert ages(fresh) == ages(fresh + [{**row, "seeds": 3} for row in aged]) == {}, "other seeds are other examples"
    live = [{**row, "split": "known+live"} for row in rows("nll", tide=0.5)]
    assert ages(fresh + live) == {}
    assert "| rating (movielens) | known | tide | nll | 0.600 | 0.500 | 1 |" in live_table(fresh + live)
    assert live_table(fresh + aged) == live_table(live) == []
    assert live_table(fresh + [{**row, "seeds": 3} for row in live]) == [], "other seeds are other examples"


def test_a_shape_is_told_by_what_it_gains_over_tide_whichever_stands_first() -> None:
    stored = [{**row, "stored_bytes_at_512_items": 3_000.0} for row in rows("nll", tide_slots=0.7, tide_1_slot=0.65)]
    about = {"task": "rating", "data": "movielens", "split": "known", "metric": "nll", "seeds": 1, "users": 40}
    verdicts = [
        {**about, "arm": "tide", "against": "tide-slots", "difference": 0.05, "low": 0.01, "high": 0.08},
        {**about, "arm": "tide-1-slot", "against": "tide", "difference": -0.02, "low": -0.05, "high": 0.01},
    ]
    lines = shape_table(stored, verdicts)
    assert "| tide-slots | rating (movielens) | known | nll | **-0.0500** | -0.0800 to -0.0100 | 3,000 | 1 |" in lines
    assert "| tide-1-slot | rating (movielens) | known | nll | -0.0200 | -0.0500 to +0.0100 | 3,000 | 1 |" in lines
    assert not any("**" in line for table in (shape_table, lambda _, few: verdict_table(few)) for line in table(stored, _of_few(verdicts)))
    assert any("**" in line for line in verdict_table(verdicts))


def _of_few(verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whom nothing can be clear of."""
    return [{**verdict, "users": 29} for verdict in verdicts]


def test_arms_that_judged_other_users_do_not_make_an_llm_weak_and_say_how_many_they_judged() -> None:
    twenty = [{**row, "users": 20, "examples": 50, "low": 0.8, "high": 1.0} for row in rows("accuracy", oppu=0.9)]
    guess = [{**row, "low": 0.6, "high": 0.8} for row in rows("accuracy", none=0.5, own_majority=0.7, llm_times_prior=0.75)]
    assert weak([*guess, *twenty]) == [], "the best arm through the LLM is llm-times-prior"
    (named, _) = weak([row for row in [*guess, *twenty] if row["arm"] != "llm-times-prior"])
    assert "the best arm through the LLM 0.500" in named
    table = [{**row, "task": "news-category", "data": "huffpost"} for row in [*guess, *twenty]]
    page = quality_table(table)
    assert "40 users, 100 examples a seed." in page
    assert "| oppu | 0.900 (0.800 to 1.000) |  |  | 20 | 1 |" in page


def test_costs_of_all_arms_are_of_the_cell_that_most_ran_on() -> None:
    costs = {"trained_params": 10.0, "stored_params_per_user": 5.0, "stored_bytes_per_user": 7.0, "stored_bytes_at_512_items": 9.0}
    made = [{**row, **costs, "ms_per_query": 1.0, "night_seconds": None} for row in rows("nll", default=0.8, tide=0.6, tapper=0.7)]
    other = [{**row, "task": "commit-area", "data": "git", "stored_bytes_per_user": 3.0} for row in made if row["arm"] == "tide"]
    lines = cost_table([*other, *made])
    assert "| tide | rating (movielens) | 10 | 5 | 7 | 9 | 9 | 1.00 |  |" in lines
    assert "| default | rating (movielens) | 10 | 0 | 0 | 0 | 0 | 1.00 |  |" in lines
    wide = f"{9 + 2 * 8 * (4_096 - 384):,}"
    assert f"| tapper | rating (movielens) | 10 | 5 | 7 | 9 | {wide} | 1.00 |  |" in lines, "eight vectors as wide as the LLM, of two bytes"


def test_what_no_row_is_of_is_named_by_task() -> None:
    there = [{**row, "split": f"known{age}"} for row in rows("nll", tide=0.6, tapper=0.7) for age in ("", "+7", "+live")]
    lacking = absent(there).split("; ")
    (mine,) = (line for line in lacking if line.startswith("rating"))
    assert "pplug" in mine
    assert not {"tide", "tapper", "own-majority"} & set(mine.partition(": ")[2].split(", ")), "ratings have no label to guess"
    assert {"commit-area (git)", "tide-1-slot of tide's shape"} <= set(lacking)
    aged = {"quality by age of the state", "histories up to the second before"}
    assert not aged & set(lacking)
    assert aged <= set(absent(there[:1]).split("; "))


def test_the_chosen_rate_is_bold_beside_the_others() -> None:
    about = {"task": "news-category", "data": "huffpost", "method": "tide"}
    found = [{**about, "learning_rate": rate, "by_seed": losses} for rate, losses in ((3e-3, [0.63]), (1e-3, [0.58734, 0.6]))]
    alone = {**about, "method": "pplug", "learning_rate": 1e-3, "by_seed": [0.9]}
    assert rate_table([*found, alone])[2:] == ["| news-category (huffpost) | tide | **0.5873 0.6000** | 0.6300 |  |", ""]
