"""From outcomes of examples to ``quality.json`` and ``verdicts.json``: examples of all seeds pooled, bootstrap over users.

``rates.json`` has the losses that learning rates are chosen by.
"""

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from benchmarks.rates import rate_of, rate_rows
from benchmarks.variants import SHAPES, Budget, arm_config, arm_section
from schemas.errors import CompatibilityError

#: By (task, data), what runs of it must share to stand side by side: the hashes of LLM and events.
Judges = dict[tuple[str, str], tuple[str, str]]

RESAMPLES = 1_000
COSTS = (
    "trained_params",
    "stored_params_per_user",
    "stored_bytes_per_user",
    "stored_bytes_at_512_items",
    "ms_per_query",
    "night_seconds",
)
#: The comparisons: an arm against others. Positive differences are the arm's gain.
PAIRS = (
    *(("tide", other) for other in ("none", "default", "recency", "bm25", "pplug", "tapper", "tapper-no-time", "tapper-no-user-row")),
    *(
        ("tide", other)
        for other in (
            "tide-slots",
            "tide-window",
            "tide-shuffled-dates",
            "tide-shuffled-users",
            "tide-swapped-users",
            "tapper-64-items",
            "pplug-64-items",
        )
    ),
    *(("tide", other) for other in ("own-majority", "last-label", "llm-times-prior")),
    *((other, "default") for other in ("tapper", "pplug", "tide-shuffled-users")),
    *(("oppu", other) for other in ("none", "tide")),
    ("tide-int8", "tide"),
    *((shape, "tide") for shape in SHAPES),
    ("default", "none"),
)
#: Between a split's name and the nights that its states are older, or ``live``.
AGED = "+"
LOWER_IS_BETTER = {"nll", "mae", "rmse"}


@dataclass(frozen=True)
class Run:
    """One arm, seed and split."""

    about: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


def load(directory: Path, judges: Judges | None = None) -> dict[tuple[str, str, str, str], dict[int, Run]]:
    """(task, data, split, arm) to seed to its latest run of the most examples; of a task only what was run against one LLM on the same
    events, and trained for ``Budget.steps`` at its rate.

    Args:
        judges: the LLMs and events whose runs are wanted; each task's latest by default.
    """
    found: dict[tuple[str, str, str, str], dict[int, Run]] = defaultdict(dict)
    kept = [(path, about) for path, about in _kept(directory) if _own_rate(about)]
    if judges is None:
        judges = {(about["task"], about["data"]): _judge(about) for _, about in kept}
    for path, about in sorted(kept, key=lambda one: one[1].get("examples", 0)):
        if _judge(about) != judges.get((about["task"], about["data"])) or not _own_config(about):
            continue
        with np.load(path.with_suffix(".npz")) as arrays:
            run = Run(about, dict(arrays))
        found[about["task"], about["data"], about["split"], about["arm"]][about["seed"]] = run
    return found


def _kept(directory: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The files of runs of ``Budget.steps`` against an LLM of its own, and what made each, the latest last."""
    every = [(path, json.loads(path.read_text())) for path in sorted(directory.glob("*/*.json"), key=lambda p: p.stat().st_mtime)]
    every = [(path, about) for path, about in every if "tuning_steps" not in about]
    return [(path, about) for path, about in every if about.get("budget", {}).get("steps", Budget.steps) == Budget.steps]


def _judge(about: dict[str, Any]) -> tuple[str, str]:
    """What runs must share to stand side by side: the LLM, and the events."""
    return about["llm"], about.get("content", "")


def _own_rate(about: dict[str, Any]) -> bool:
    rate = about.get("budget", {}).get("learning_rate")
    return rate is None or rate == rate_of(about["task"], about["arm"])


def _own_config(about: dict[str, Any]) -> bool:
    """Whether a trained arm's configuration is still what it was."""
    if "config" not in about:
        return True
    config = arm_config(about["arm"], about["seed"], Budget(**about["budget"]))
    return bool(about["config"] == arm_section(config))


def metrics_of(run: Run) -> list[str]:
    """The metrics a run has figures for."""
    names = {"label": ["accuracy", "f1"], "rating": ["mae", "rmse"], "text": ["rouge1", "rougeL"]}[run.about["kind"]]
    return names + (["nll"] if "nll" in run.arrays else [])


def _column(metric: str) -> str:
    """The array that a metric is made of, NaN where an example has none of it."""
    return {"rmse": "squared", "f1": "accuracy"}.get(metric, metric)


def resampled(metric: str, runs: list[Run], draws: npt.NDArray[np.int64], users: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The figure under each draw of users, ``[draws]``; all seeds' examples of a user are drawn together.

    F1 is averaged over the full list of labels, as LaMP has it: an answer that is no label is a miss, a label that never occurs scores 0.

    Args:
        draws: int64 ``[draws, users]``, how often each user is drawn.
        users: the users, ascending.
    """
    owner = np.searchsorted(users, np.concatenate([r.arrays["user"] for r in runs]))
    if metric == "f1":
        labels = runs[0].about["labels"]
        counts = np.zeros((3, len(users), labels))
        found, gold = (np.concatenate([r.arrays[name] for r in runs]).astype(int) for name in ("found", "gold"))
        hit = found == gold
        np.add.at(counts[0], (owner[hit], gold[hit]), 1)
        np.add.at(counts[1], (owner, gold), 1)
        valid = found >= 0
        np.add.at(counts[2], (owner[valid], found[valid]), 1)
        right, wanted, given = (draws @ c for c in counts)
        return np.asarray((2 * right / np.maximum(wanted + given, 1e-12)).mean(1))
    column = np.concatenate([r.arrays[_column(metric)] for r in runs])
    there = ~np.isnan(column)
    total = np.bincount(owner[there], weights=column[there], minlength=len(users))
    size = np.bincount(owner[there], minlength=len(users))
    mean = (draws @ total) / np.maximum(draws @ size, 1)
    return np.asarray(np.sqrt(mean) if metric == "rmse" else mean)


def _draws(users: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), RESAMPLES)


def _users(runs: list[Run]) -> npt.NDArray[np.int64]:
    return np.unique(np.concatenate([r.arrays["user"] for r in runs]))


def _judged(runs: list[Run], metric: str) -> npt.NDArray[np.int64]:
    """The user of each example that the metric judged: of a writing task, ROUGE only those whose answer was written."""
    return np.concatenate([r.arrays["user"][~np.isnan(r.arrays[_column(metric)])] for r in runs])


def quality_rows(found: dict[tuple[str, str, str, str], dict[int, Run]]) -> list[dict[str, Any]]:
    """One row per task, data, split, arm and metric."""
    rows = []
    for (task, data, split, arm), by_seed in sorted(found.items()):
        runs = [by_seed[s] for s in sorted(by_seed)]
        users = _users(runs)
        for metric in metrics_of(runs[0]):
            once = np.ones((1, len(users)), np.int64)
            each = [resampled(metric, [r], once, users)[0] for r in runs]
            spread = resampled(metric, runs, _draws(len(users)), users)
            judged = _judged(runs, metric)
            costs = [r.about["costs"] for r in runs]
            row: dict[str, Any] = {"task": task, "data": data, "split": split, "arm": arm, "metric": metric}
            row["mean"] = float(resampled(metric, runs, once, users)[0])
            row.update(low=float(np.quantile(spread, 0.025)), high=float(np.quantile(spread, 0.975)), std=float(np.std(each)))
            row.update(seeds=len(runs), users=len(np.unique(judged)), examples=len(judged))
            row.update({c: float(np.mean([x[c] for x in costs])) if all(c in x for x in costs) else None for c in COSTS})
            row.update(llm=runs[-1].about["llm"], content=runs[-1].about["content"], device=runs[-1].about["device"])
            rows.append({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
    return rows


def _paired(one: Run, other: Run) -> tuple[Run, Run] | None:
    """Two runs on the examples that both judged (oppu judges some users only); None after unequal training, or where there are none.

    Each method has a learning rate of its own on each task.
    """
    budgets = [{**r.about["budget"], "learning_rate": None} for r in (one, other) if "budget" in r.about]
    shared = np.intersect1d(one.arrays["event"], other.arrays["event"])
    if not len(shared) or any(b != budgets[0] for b in budgets):
        return None
    both = []
    for run in (one, other):
        kept = np.flatnonzero(np.isin(run.arrays["event"], shared))
        kept = kept[np.argsort(run.arrays["event"][kept])]
        both.append({name: x[kept] for name, x in run.arrays.items()})
    for name in both[0].keys() & both[1].keys():
        if both[0][name].dtype.kind == "f":
            # Answers that only one of them wrote out.
            lacking = np.isnan(both[0][name]) | np.isnan(both[1][name])
            both = [{**arrays, name: np.where(lacking, np.nan, arrays[name])} for arrays in both]
    return Run(one.about, both[0]), Run(other.about, both[1])


def verdict_rows(found: dict[tuple[str, str, str, str], dict[int, Run]]) -> list[dict[str, Any]]:
    """Paired differences over the seeds that both arms ran, on the same examples and the same draws of users."""
    rows = []
    for task, data, split in sorted({key[:3] for key in found}):
        for arm, against in PAIRS:
            ours, theirs = found.get((task, data, split, arm), {}), found.get((task, data, split, against), {})
            pairs = [pair for s in sorted(set(ours) & set(theirs)) if (pair := _paired(ours[s], theirs[s]))]
            if not pairs:
                continue
            mine, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            users = _users(mine)
            draws = np.concatenate([np.ones((1, len(users)), np.int64), _draws(len(users))])
            for metric in metrics_of(mine[0]):
                if metric not in metrics_of(other[0]):
                    continue
                sign = -1 if metric in LOWER_IS_BETTER else 1
                gap = sign * (resampled(metric, mine, draws, users) - resampled(metric, other, draws, users))
                low, high = np.quantile(gap[1:], [0.025, 0.975])
                each = [
                    sign * float((resampled(metric, [a], draws[:1], users) - resampled(metric, [b], draws[:1], users))[0]) for a, b in pairs
                ]
                row: dict[str, Any] = {"task": task, "data": data, "split": split, "metric": metric, "arm": arm, "against": against}
                row.update(difference=round(float(gap[0]), 5), low=round(float(low), 5), high=round(float(high), 5))
                row.update(users=len(np.unique(_judged(mine, metric))), seeds=len(pairs), by_seed=[round(one, 5) for one in each])
                rows.append({**row, "llm": mine[0].about["llm"], "content": mine[0].about["content"]})
    return rows


def refuse_others(results: Path, judges: Judges) -> None:
    """Look whether rows of a task were made against another LLM, or on other events, than its present ones, ``judges``.

    Raises:
        CompatibilityError: there are some; their figures cannot stand beside new ones.
    """
    path = results / "quality.json"
    for row in json.loads(path.read_text()) if path.is_file() else []:
        own = judges.get((row["task"], row["data"]))
        if own and own != _judge(row):
            what = f"of LLM {row['llm'][:12]}, this one is {own[0][:12]}" if own[0] != row["llm"] else "of other events than there are now"
            raise CompatibilityError(
                f"the rows of {row['task']} ({row['data']}) are {what}",
                where=str(path),
                mend="--results DIR for a table of its own, or --replace to let those rows go",
            )


def write_whole(path: Path, text: str) -> None:
    """Write a file that nobody reads half-written."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def write_tables(outcomes: Path, results: Path, judges: Judges | None = None, *, replace: bool = False) -> None:
    """Merge the rows that ``outcomes`` gives into the files of ``results``; a row of more seeds stays as it is.

    After a change of rates or budget the rows that were there are of other runs: begin with an empty ``results``, and after a change of
    code with an empty ``outcomes``.

    Args:
        judges: the tasks whose rows are made, and of which LLM and events; all by default, and each task's latest.
        replace: let go rows of these tasks that were made against another LLM or on other events.

    Raises:
        CompatibilityError: there are such rows.
    """
    results.mkdir(parents=True, exist_ok=True)
    found = load(outcomes, judges)
    if judges is None:
        judges = {key[:2]: _judge(run.about) for key, runs in found.items() for run in runs.values()}
    present = [a for _, a in _kept(outcomes) if _judge(a) == judges.get((a["task"], a["data"])) and _own_config(a)]
    tables = (
        ("quality.json", quality_rows(found), ("task", "data", "split", "arm", "metric")),
        ("verdicts.json", verdict_rows(found), ("task", "data", "split", "metric", "arm", "against")),
        ("rates.json", rate_rows(present), ("task", "data", "method", "learning_rate")),
    )
    # Arms are run by several processes at a time.
    with FileLock(outcomes / "tables.lock"):
        if not replace:
            refuse_others(results, judges)
        for name, rows, keys in tables:
            _merge(results / name, rows, keys, judges)


def _merge(path: Path, rows: list[dict[str, Any]], keys: tuple[str, ...], judges: Judges) -> None:
    held = json.loads(path.read_text()) if path.is_file() else []
    # Figures of another judge than the task's present one cannot stand beside its rows.
    held = [row for row in held if _judge(row) == judges.get((row["task"], row["data"]), _judge(row))]
    merged = {tuple(row[k] for k in keys): row for row in held}
    for row in rows:
        key = tuple(row[k] for k in keys)
        # A cache that holds fewer seeds was made anew, or on another machine.
        if key not in merged or merged[key]["seeds"] <= row["seeds"]:
            merged[key] = row
    write_whole(path, json.dumps([merged[key] for key in sorted(merged)], indent=1) + "\n")
