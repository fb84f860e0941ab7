"""Learning rates: each method's on each task, of those tried the one of least loss on examples held out of training, seed 0.

``python -m benchmarks.quality --seed 0 --task news-category --arm default --arm tide --arm tapper --arm pplug --rate 1e-3``, then the other
rates and tasks, makes the losses of ``benchmarks/results/rates.json``; a test holds the choice against them.
"""

from typing import Any

TRIED = (1e-3, 3e-3, 1e-2)
#: Losses no further apart are the same; the middle rate is then taken.
TIE = 0.002
#: Of news-category, and of every task that has no choice of its own.
USUAL = {"default": 1e-2, "tide": 1e-3, "tapper": 3e-3, "pplug": 1e-2}
CHOSEN: dict[str, dict[str, float]] = {
    "commit-area": {"default": 1e-2, "tide": 3e-3, "tapper": 3e-3, "pplug": 1e-2},
    "rating": {"default": 3e-3, "tide": 1e-3, "tapper": 1e-3, "pplug": 3e-3},
}


def rate_of(task: str, arm: str) -> float:
    """The rate that an arm is trained at, 0 if it is not; changed arms have their method's, ``tide-shuffled-users`` ``default``'s."""
    method = "default" if arm == "tide-shuffled-users" else arm.split("-")[0]
    return CHOSEN.get(task, USUAL).get(method, 0.0)


def rate_rows(every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``rates.json``: held-out loss by task, data, method and rate.

    Args:
        every: what made each outcome, whatever its rate.
    """
    rows = {}
    for about in every:
        budget = about.get("budget", {})
        if about["arm"] in USUAL and about["seed"] == 0 and not budget.get("lag") and budget.get("learning_rate") in TRIED:
            row = {"task": about["task"], "data": about["data"], "method": about["arm"], "learning_rate": budget["learning_rate"]}
            rows[tuple(row.values())] = {**row, "held_out": about["held_out"], "llm": about["llm"]}
    return list(rows.values())
