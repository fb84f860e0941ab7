"""Learning rates: each method's on each task, chosen by the loss on examples held out of training.

Rates are tried with seed 0, the chosen one's neighbours among them; those within ``NEAR`` of the least have all the task's seeds,
and of these the least mean is taken. Where all are within ``SAME`` of each other the middle one stays, and no more seeds are run.
``python -m benchmarks.quality --seed 0 --task news-category --arm default --arm tide --arm tapper --arm pplug --rate 1e-3``, then the other
rates, seeds and tasks, makes the losses of ``benchmarks/results/rates.json``; a test holds the choice against them.
"""

from collections import defaultdict
from statistics import fmean
from typing import Any

#: It ends at 1e-2: 3e-2 is worse on news-category, and on commit-area .006 better for pplug held out, but for new users far worse.
TRIED = (1e-3, 3e-3, 1e-2)
NEAR, SAME = 0.01, 0.002
#: Of news-category, and of every task that has no choice of its own.
USUAL = {"default": 1e-2, "tide": 1e-3, "tapper": 3e-3, "pplug": 1e-2}
CHOSEN: dict[str, dict[str, float]] = {
    "commit-area": {"default": 1e-2, "tide": 3e-3, "tapper": 3e-3, "pplug": 1e-2},
    "commit-subject": {"default": 3e-3, "tide": 1e-3, "tapper": 3e-3, "pplug": 1e-2},
    "rating": {"default": 3e-3, "tide": 1e-3, "tapper": 1e-3, "pplug": 3e-3},
}


def rate_of(task: str, arm: str) -> float:
    """The rate that an arm is trained at, its method's; 0 if it is not trained."""
    return CHOSEN.get(task, USUAL).get(arm.split("-")[0], 0.0)


def rate_rows(every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``rates.json``: held-out loss by task, data, method and rate, the mean and by seed.

    Args:
        every: what made each outcome, whatever its rate; of a task all against one LLM.
    """
    losses: dict[tuple[str, str, str, float], dict[int, float]] = defaultdict(dict)
    judges = {(about["task"], about["data"]): {"llm": about["llm"], "content": about["content"]} for about in every}
    for about in every:
        budget = about.get("budget", {})
        if about["arm"] in USUAL and not budget.get("lag") and budget.get("learning_rate") in TRIED:
            losses[about["task"], about["data"], about["arm"], budget["learning_rate"]][about["seed"]] = about["held_out"]
    rows = []
    for (task, data, method, rate), found in losses.items():
        by_seed = [found[seed] for seed in sorted(found)]
        row = {"task": task, "data": data, "method": method, "learning_rate": rate, "held_out": round(fmean(by_seed), 6)}
        rows.append({**row, "by_seed": by_seed, "seeds": len(by_seed), **judges[task, data]})
    return rows
