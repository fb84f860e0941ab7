"""The page's tables: figures, verdicts, shapes of tide, ages, costs, learning rates; and where the figures are worth nothing."""

from collections import defaultdict
from typing import Any

from benchmarks.arms import ARMS, PROMPTED
from benchmarks.frozen import LENGTH
from benchmarks.plots import ages
from benchmarks.rates import TRIED, rate_of
from benchmarks.summary import FEW, judged, unmoved
from benchmarks.tables import AGED
from benchmarks.tasks import LAMP, TASKS
from benchmarks.variants import SHAPES

#: Guesses from a user's own labels, without the LLM.
OWN = ("own-majority", "last-label")
#: Embeddings of the benchmark's LLM, and of one of 7 billion parameters: only tapper's rows are as wide (and OPPU's LoRA, by layer).
WIDTH, WIDE = 384, 4_096
PER_ITEM = {"label": ("accuracy", "f1"), "rating": ("mae", "rmse"), "text": ("rouge1", "rougeL")}


def quality_table(rows: list[dict[str, Any]]) -> list[str]:
    """One table a task and split: each metric with its interval."""
    lines: list[str] = []
    cells: dict[tuple[str, str, str], dict[tuple[str, str], Any]] = defaultdict(dict)
    for row in rows:
        cells[row["task"], row["data"], row["split"]][row["arm"], row["metric"]] = row
    kinds = {t.name: t.kind for t in (*TASKS, *LAMP)}
    for (task, data, split), found in sorted(cells.items()):
        metrics = [*PER_ITEM[kinds[task]], "nll"]
        some = max(found.values(), key=judged)
        few = f" Fewer than {FEW} users: descriptive only." if some["users"] < FEW else ""
        lines += [f"### {task} ({data}), {split} users", ""]
        lines += [f"{some['users']} users, {some['examples'] // some['seeds']} examples a seed.{few}", ""]
        lines += ["| arm | " + " | ".join(metrics) + " | users | seeds |", "|---|" + "---|" * (len(metrics) + 2)]
        for arm in ARMS:
            mine = [found.get((arm, metric)) for metric in metrics]
            if not any(mine):
                continue
            shown = [f"{r['mean']:.3f} ({r['low']:.3f} to {r['high']:.3f})" if r else "" for r in mine]
            one = max((r for r in mine if r), key=judged)
            lines.append(f"| {arm} | " + " | ".join(shown) + f" | {one['users']} | {one['seeds']} |")
        lines.append("")
    return lines


def verdict_table(rows: list[dict[str, Any]]) -> list[str]:
    """Paired differences, the arm's gain."""
    lines = ["| task | users | metric | arm | against | gain | 95 % interval | n users | seeds |", "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        interval = f"{r['low']:+.4f} to {r['high']:+.4f}"
        clear = "**" if r["users"] >= FEW and (r["low"] > 0 or r["high"] < 0) else ""
        where = f"| {r['task']} ({r['data']}) | {r['split']} | {r['metric']} | {r['arm']} | {r['against']} "
        lines.append(where + f"| {clear}{r['difference']:+.4f}{clear} | {interval} | {r['users']} | {r['seeds']} |")
    return [*lines, ""]


def shape_table(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[str]:
    """What tide loses or gains with one thing about it changed."""
    stored = {r["arm"]: r["stored_bytes_at_512_items"] for r in rows if r["stored_bytes_at_512_items"] is not None}
    changed = [a for a in ("tide-slots", "tide-window", "tide-int8", *SHAPES) if a in stored]
    lines = [
        "| arm | task | users | metric | gain over tide | 95 % interval | bytes at 512 items | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in changed:
        for v in verdicts:
            # Whoever has the change on the right of a verdict has the gain turned round.
            sign = {(arm, "tide"): 1, ("tide", arm): -1}.get((v["arm"], v["against"]))
            if sign and v["metric"] in ("accuracy", "mae", "rougeL", "nll"):
                low, high = sorted((sign * v["low"], sign * v["high"]))
                clear = "**" if v["users"] >= FEW and (low > 0 or high < 0) else ""
                where = f"| {arm} | {v['task']} ({v['data']}) | {v['split']} | {v['metric']} "
                gain = f"| {clear}{sign * v['difference']:+.4f}{clear} | {low:+.4f} to {high:+.4f} "
                lines.append(f"{where}{gain}| {stored[arm]:,.0f} | {v['seeds']} |")
    return [*lines, ""] if len(lines) > 2 else []


def age_table(rows: list[dict[str, Any]]) -> list[str]:
    """Loss of aged states."""
    lines = ["| task | users | arm | nights older: nll | seeds |", "|---|---|---|---|---|"]
    seeds = {(r["task"], r["data"], r["split"], r["arm"]): r["seeds"] for r in rows}
    for (task, data, split), by in ages(rows).items():
        for arm, found in by.items():
            told = ", ".join(f"{nights}: {found[nights]:.3f}" for nights in sorted(found))
            lines.append(f"| {task} ({data}) | {split} | {arm} | {told} | {seeds[task, data, split, arm]} |")
    return [*lines, ""]


def live_table(rows: list[dict[str, Any]]) -> list[str]:
    """Histories up to the second before beside those of the last night, of the same examples; nothing where none were judged."""
    known = {(r["task"], r["data"], r["split"], r["arm"], r["metric"]): r for r in rows}
    lines = ["| task | users | arm | metric | the last night | the second before | seeds |", "|---|---|---|---|---|---|---|"]
    for arm in ARMS:
        for (task, data, split, mine, metric), r in sorted(known.items()):
            split, _, cut = split.partition(AGED)
            night = known.get((task, data, split, mine, metric))
            shown = mine == arm and cut == "live" and metric in ("accuracy", "mae", "rougeL", "nll")
            if shown and night and judged(night) == judged(r):
                lines.append(f"| {task} ({data}) | {split} | {arm} | {metric} | {night['mean']:.3f} | {r['mean']:.3f} | {r['seeds']} |")
    return [*lines, ""] if len(lines) > 2 else []


def weak(rows: list[dict[str, Any]]) -> list[str]:
    """Cells where the LLM is too weak to judge arms by: guessing from own labels beats it, items in its prompt harm it, or no prefix
    moves it."""
    lines, still = list[str](), unmoved(rows)
    for cell in sorted({(r["task"], r["data"], r["split"]) for r in rows}):
        mine, loss = _means(rows, cell, "accuracy"), _means(rows, cell, "nll")
        guess = max((v for a, v in mine.items() if a in OWN), default=0.0)
        asked = max((v for a, v in mine.items() if a not in OWN), default=1.0)
        if guess > asked:
            what = f"guessing from the user's own labels reaches {guess:.3f}, the best arm through the LLM {asked:.3f}"
            lines.append(f"- **{cell[0]} ({cell[1]}), {cell[2]} users: {what}.** Its tuning was too short for its answers to be of use.")
        for means, sign, told in ((mine, 1, " reaches"), (loss, -1, "'s loss is")):
            if harm := _harm(means, sign):
                what = f"with items in its prompt the LLM{told} {harm[0]:.3f}, without {harm[1]:.3f}"
                lines.append(f"- **{cell[0]} ({cell[1]}), {cell[2]} users: {what}.** By this, `recency` and `bm25` say nothing here.")
        if cell in still:
            what = f"no prefix moves the LLM, loss {still[cell][0]:.3f} without one and {still[cell][1]:.3f} with the best"
            lines.append(f"- **{cell[0]} ({cell[1]}), {cell[2]} users: {what}.** Until it is tuned for longer, it tells no arms apart.")
    return [*lines, ""] if lines else []


def _means(rows: list[dict[str, Any]], cell: tuple[str, str, str], metric: str) -> dict[str, float]:
    """By arm, of those that judged the most."""
    here = [r for r in rows if (r["task"], r["data"], r["split"]) == cell and r["metric"] == metric]
    return {r["arm"]: r["mean"] for r in here if judged(r) == max(map(judged, here))}


def _harm(means: dict[str, float], sign: int) -> tuple[float, float] | None:
    """A figure (``sign`` -1: less is better) with the best choice of items in the prompt and without any, where these are better off."""
    shown = [sign * mean for arm, mean in means.items() if arm in PROMPTED and arm != "none"]
    if not shown or "none" not in means or max(shown) >= sign * means["none"]:
        return None
    return sign * max(shown), means["none"]


def cost_table(rows: list[dict[str, Any]]) -> list[str]:
    """What each arm stores and takes, on the task and split that most arms ran on; arms that did not, on their own."""
    lines = [
        "| arm | task | trained parameters | numbers a user at most | bytes a user, mean | bytes at 512 items | the same for an LLM"
        f" of width {WIDE:,} | ms a query | s a night |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for r in rows:
        if r["metric"] == "nll" and r["stored_bytes_at_512_items"] is not None and AGED not in r["split"]:
            cells[r["task"], r["data"], r["split"]][r["arm"]] = r
    most = sorted(cells.values(), key=len, reverse=True)
    for arm in ARMS:
        for r in [found[arm] for found in most if arm in found][:1]:
            costs = {"stored_params_per_user": ",.0f", "stored_bytes_per_user": ",.0f", "stored_bytes_at_512_items": ",.0f"}
            # A prefix that is everyone's stores nothing; a LoRA for each user has no query of its own.
            stored = ["0" if arm == "default" else "" if r[name] is None else format(r[name], form) for name, form in costs.items()]
            wider = 2 * LENGTH * (WIDE - WIDTH) if arm.startswith("tapper") and arm != "tapper-no-user-row" else 0
            stored.append(stored[-1] if not wider else format(r["stored_bytes_at_512_items"] + wider, ",.0f"))
            if arm == "oppu":
                stored[-1] = ""
            took = ["" if r[name] is None else format(r[name], form) for name, form in (("ms_per_query", ".2f"), ("night_seconds", ".3f"))]
            told = [arm, f"{r['task']} ({r['data']})", format(r["trained_params"], ",.0f"), *stored, *took]
            lines.append("| " + " | ".join(told) + " |")
    return [*lines, ""]


def rate_table(rates: list[dict[str, Any]]) -> list[str]:
    """The held-out losses that learning rates were chosen by, of methods with several; the chosen rate's bold."""
    lines = ["| task | method | " + " | ".join(f"{rate:g}" for rate in TRIED) + " |", "|---|---|" + "---|" * len(TRIED)]
    losses = {(r["task"], r["data"], r["method"], r["learning_rate"]): " ".join(f"{loss:.4f}" for loss in r["by_seed"]) for r in rates}
    for task, data, method in sorted({key[:3] for key in losses}):
        told = [losses.get((task, data, method, rate), "") for rate in TRIED]
        if len([loss for loss in told if loss]) > 1:
            told = [f"**{loss}**" if loss and rate == rate_of(task, method) else loss for rate, loss in zip(TRIED, told, strict=True)]
            lines.append(f"| {task} ({data}) | {method} | " + " | ".join(told) + " |")
    return [*lines, ""]
