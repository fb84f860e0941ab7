"""``docs/quality.md`` and its plots, written from ``benchmarks/results`` and the kept outcomes: ``python -m benchmarks.report``."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.arms import ARMS, PROMPTED, REFERENCE, WRITTEN
from benchmarks.frozen import CACHE, DECODER_LAYERS, ENCODER_LAYERS, LENGTH
from benchmarks.plots import GAINS, age_plots, ages, gain_plot, plots
from benchmarks.summary import FEW, judged, summary, unmoved
from benchmarks.tables import AGED, load
from benchmarks.tasks import LAMP, TASKS
from benchmarks.variants import RATES, SHAPES

ROOT = Path(__file__).parents[1]
#: Guesses from a user's own labels, without the LLM.
OWN = ("own-majority", "last-label")
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
            one = next(r for r in mine if r)
            lines.append(f"| {arm} | " + " | ".join(shown) + f" | {one['users']} | {one['seeds']} |")
        lines.append("")
    return lines


def verdict_table(rows: list[dict[str, Any]]) -> list[str]:
    """Paired differences, the arm's gain."""
    lines = ["| task | users | metric | arm | against | gain | 95 % interval | n users | seeds |", "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        interval = f"{r['low']:+.4f} to {r['high']:+.4f}"
        clear = "**" if r["low"] > 0 or r["high"] < 0 else ""
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
                clear = "**" if low > 0 or high < 0 else ""
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
        here = [r for r in rows if (r["task"], r["data"], r["split"]) == cell and r["metric"] == "accuracy"]
        mine = {r["arm"]: r["mean"] for r in here if judged(r) == max(map(judged, here))}
        guess = max((v for a, v in mine.items() if a in OWN), default=0.0)
        asked = max((v for a, v in mine.items() if a not in OWN), default=1.0)
        if guess > asked:
            what = f"guessing from the user's own labels reaches {guess:.3f}, the best arm through the LLM {asked:.3f}"
            lines.append(f"- **{cell[0]} ({cell[1]}), {cell[2]} users: {what}.** Its tuning was too short for its answers to be of use.")
        shown = max((v for a, v in mine.items() if a in PROMPTED and a != "none"), default=1.0)
        if shown < mine.get("none", 0.0):
            what = f"with items in its prompt the LLM reaches {shown:.3f}, without {mine['none']:.3f}"
            lines.append(
                f"- **{cell[0]} ({cell[1]}), {cell[2]} users: {what}.** It saw too few histories: `recency` and `bm25` say nothing here."
            )
        if cell in still:
            what = f"no prefix moves the LLM, loss {still[cell][0]:.3f} without one and {still[cell][1]:.3f} with the best"
            lines.append(f"- **{cell[0]} ({cell[1]}), {cell[2]} users: {what}.** Until it is tuned for longer, it tells no arms apart.")
    return [*lines, ""] if lines else []


def cost_table(rows: list[dict[str, Any]]) -> list[str]:
    """What each arm stores and takes, on the task and split that most arms ran on; arms that did not, on their own."""
    lines = [
        "| arm | task | trained parameters | numbers a user at most | bytes a user, mean | bytes at 512 items | ms a query | s a night |",
        "|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for r in rows:
        if r["metric"] == "nll" and r["stored_bytes_at_512_items"] is not None and AGED not in r["split"]:
            cells[r["task"], r["data"], r["split"]][r["arm"]] = r
    most = sorted(cells.values(), key=len, reverse=True)
    for arm in ARMS:
        for r in [found[arm] for found in most if arm in found][:1]:
            costs = {"stored_params_per_user": ",.0f", "stored_bytes_per_user": ",.0f", "stored_bytes_at_512_items": ",.0f"}
            # A prefix that is everyone's stores nothing; a LoRA for each user has no night and no query of its own.
            stored = ["0" if arm == "default" else "" if r[name] is None else format(r[name], form) for name, form in costs.items()]
            took = ["" if r[name] is None else format(r[name], form) for name, form in (("ms_per_query", ".2f"), ("night_seconds", ".3f"))]
            told = [arm, f"{r['task']} ({r['data']})", format(r["trained_params"], ",.0f"), *stored, *took]
            lines.append("| " + " | ".join(told) + " |")
    return [*lines, ""]


PAPERS = """The papers' own accounting (not measured here): OPPU 4,194,304 parameters per user (Llama-2-7B, rank 8 on q and v); TAP-PER
32,768 (8 vectors of 4,096), beside a shared part of about 205 million and a bank of 8 KB an item; PER-PCS about 0.45 MB per user."""


def figures(place: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of ``quality.json``, and those of ``verdicts.json`` on states of the last night."""
    rows, verdicts = (json.loads((place / name).read_text()) for name in ("quality.json", "verdicts.json"))
    return rows, [v for v in verdicts if AGED not in v["split"]]


def shape_and_age(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[str]:
    """What one thing changed about tide makes, and what older states or later histories do; what there is of it."""
    lines, fresh = list[str](), [r for r in rows if AGED not in r["split"]]
    if shapes := shape_table(fresh, verdicts):
        lines += ["## tide's shape", "", "One thing changed at a time: `--arm` by these names.", "", *shapes]
    if ages(rows):
        lines += ["## Age of the state", "", *age_table(rows)]
    if live := live_table(rows):
        told = "No nightly store has them. Every arm is trained on histories of the last night all the same (`--live`)."
        lines += ["## Histories up to the second before", "", told, "", *live]
    return lines


def run(
    results: Annotated[Path, typer.Option(help="Directory of quality.json and verdicts.json.")] = ROOT / "benchmarks" / "results",
    cache: Annotated[Path, typer.Option(help="Kept outcomes, for the plots.")] = CACHE,
    docs: Annotated[Path, typer.Option(help="Where the page goes.")] = ROOT / "docs",
) -> None:
    """Write the page."""
    rows, verdicts = figures(results)
    devices = sorted({r["device"] for r in rows})
    models = sorted({(r["task"], r["data"], r["llm"][:16]) for r in rows})
    tasks = {(r["task"], r["data"]) for r in rows}
    arms = {r["arm"] for r in rows}
    run_on = {t: {r["arm"] for r in rows if (r["task"], r["data"]) == (t.name, t.data)} for t in TASKS if (t.name, t.data) in tasks}
    absent = [t.name + " (" + t.data + ")" for t in TASKS if (t.name, t.data) not in tasks]
    fresh = [r for r in rows if AGED not in r["split"]]
    short = summary(fresh, verdicts)
    age_plots(rows, docs / "quality")
    gain_plot(fresh, verdicts, docs / "quality")
    seeds = sorted({r["seeds"] for r in fresh})
    trained = [r.about["budget"] for by in load(cache / "outcomes").values() for r in by.values() if "budget" in r.about]
    budgets = sorted({json.dumps({k: v for k, v in b.items() if k not in ("learning_rate", "lag")}) for b in trained})
    page = [
        "# Quality",
        "",
        "Written by `python -m benchmarks.report` from what `python -m benchmarks.quality` measured. Do not edit by hand.",
        "",
        *(["## In short", "", *short, f"![gains](quality/{GAINS})", ""] if short else []),
        "## What was measured",
        "",
        f"- Machine: {'; '.join(devices)}. Seeds a cell: {', '.join(map(str, seeds))}; one seed is a direction, not a verdict."
        " Two arms ran at a time, so the times are upper bounds.",
        f"- Frozen LLM: an encoder-decoder warm-started from MiniLM ({ENCODER_LAYERS} and {DECODER_LAYERS} layers, token embeddings kept),"
        " tuned per task on users outside the test, before its time (ratings come in bursts: at any time), half of the batches behind"
        f" `P₀` (L = {LENGTH}), then frozen; those of tasks without labels start their cross-attention from the self-attention, or they do"
        " not learn to copy digits: "
        + "; ".join(f"{task} ({data}) `{name}`" for task, data, name in models)
        + ". They are tuned on one thread, or their weights would depend on the cores; commit-area's was made twice from nothing, a day"
        " between, and every figure that its three seeds then gave was the same.",
        *(f"- Every trained arm got the same budget: `{b}`." for b in budgets),
        "- Arms are trained on the latest 64 items of a history and judged on up to 512: tapper's and pplug's banks hold as many, tide's"
        " window its 64, its slots all. `tapper-64-items` and `pplug-64-items` have banks of 64.",
        "- Prefixes have 8 vectors, pplug's 2: an instruction and the user, as Persona-Plug has it.",
        "- *Known* users have examples in training, *new* ones are of the third of all users that the seed holds out. `oppu` is judged on"
        " the 20 users of the longest histories.",
        f"- A learning rate for each method: {', '.join(f'{name} {rate:g}' for name, rate in RATES.items())}, of 1e-3 and 3e-3 the better"
        " on 512 examples held out of training, news-category, seed 0, against an earlier LLM of that task (`--rate`), and then used"
        " everywhere. Against the present one the other rate would be better for tide (loss .587 for .630) and tapper (.768 for .774), not"
        " for pplug (.872 for .794).",
        "- tide and its ablations learn half of their examples from copies of users under exchanged labels (`train.relabelled`), and their"
        " heads say the window's targets to the LLM in its own embeddings (docs/concepts.md; not `tide-slots`, which has no window); the"
        " papers' arms know neither, `default` and `tide-shuffled-users` learn from no copies. Both were found by looking at test examples"
        " of news-category, seeds 0 and 1, which favours tide there; nothing was chosen on another task.",
        "- Histories are what a nightly store held at 00:00 UTC of the query's day. States are read back in a bundle's types.",
        "- tapper's learned rows are fitted the night before a user's first judged example and not moved after it;"
        " its bank is of the last night. Its bridge LoRA (`tapper.bridge`) is left out: it would be another LLM than the others'.",
        "- Means are over the examples of all seeds, intervals 95 % of a bootstrap over their users. Answers are decoded greedily; those of"
        f" writing tasks for {WRITTEN} examples a split.",
        "",
        "Not there: "
        + "; ".join(
            [
                *absent,
                *(f"arm {a}" for a in ARMS if a not in arms),
                *(
                    f"{arm} on {task.name} ({task.data})"
                    for task, there in run_on.items()
                    for arm in ARMS
                    if arm in arms - there and (task.kind == "label" or arm not in REFERENCE)
                ),
                *(f"{a} of tide's shape" for a in SHAPES if a not in arms),
                *([] if ages(rows) else ["quality by age of the state"]),
                *([] if live_table(rows) else ["histories up to the second before"]),
            ]
        )
        + ".",
        "",
        "Again, or on: `python -m benchmarks.quality --data DIR [--task T] [--arm A] [--seed S]` skips what its cache holds; then"
        " `python -m benchmarks.report`. Other data in the same form runs by the same command: `NAME_news.jsonl.gz`, `NAME_latest_small/`,"
        " `commits_NAME.jsonl.gz` in `DIR`, then `--source NAME`. LaMP's own files: `--task LaMP-2N --data DIR` with `DIR/LaMP_2N`.",
        "",
        "## Figures",
        "",
        *weak(fresh),
        *quality_table(fresh),
        "## Verdicts",
        "",
        "Paired on the same examples; positive is the arm's gain (loss and errors are turned round). Bold: the interval excludes zero.",
        "",
        *verdict_table(verdicts),
        *shape_and_age(rows, verdicts),
        "## Costs",
        "",
        *cost_table(rows),
        PAPERS,
        "",
        "## Plots",
        "",
        *(f"![{name}](quality/{name})" for name in plots(cache, rows, docs / "quality") if name != GAINS),
        "",
    ]
    (docs / "quality.md").write_text("\n".join(page))


if __name__ == "__main__":
    typer.run(run)
