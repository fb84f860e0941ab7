"""``docs/quality.md`` and its plots, written from ``benchmarks/results`` and the kept outcomes: ``python -m benchmarks.report``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.arms import ARMS, REFERENCE, WRITTEN
from benchmarks.bench import ITEM_CHARACTERS, MAX_OF_USER
from benchmarks.frozen import CACHE, DECODER_LAYERS, ENCODER_LAYERS, LENGTH
from benchmarks.plots import GAINS, age_plots, ages, gain_plot, plots
from benchmarks.rates import NEAR, SAME, TRIED
from benchmarks.sections import age_table, cost_table, live_table, quality_table, rate_table, shape_table, verdict_table, weak
from benchmarks.summary import FEW, summary
from benchmarks.tables import AGED, load
from benchmarks.tasks import LAMP, TASKS
from benchmarks.variants import SHAPES

ROOT = Path(__file__).parents[1]
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


def absent(rows: list[dict[str, Any]]) -> str:
    """What the benchmark knows and no row is of: tasks, arms of tasks, changed shapes, ages."""
    lacking = []
    for task in TASKS:
        there = {r["arm"] for r in rows if (r["task"], r["data"]) == (task.name, task.data)}
        arms = [arm for arm in ARMS if arm not in there and (task.kind == "label" or arm not in REFERENCE)]
        if arms:
            lacking.append(f"{task.name} ({task.data}){': ' + ', '.join(arms) if there else ''}")
    lacking += [f"{shape} of tide's shape" for shape in SHAPES if shape not in {r["arm"] for r in rows}]
    lacking += [] if ages(rows) else ["quality by age of the state"]
    lacking += [] if live_table(rows) else ["histories up to the second before"]
    return "; ".join(lacking) or "nothing"


def run(
    results: Annotated[Path, typer.Option(help="Directory of the figures.")] = ROOT / "benchmarks" / "results",
    cache: Annotated[Path, typer.Option(help="Kept outcomes, for the plots.")] = CACHE,
    docs: Annotated[Path, typer.Option(help="Where the page goes.")] = ROOT / "docs",
) -> None:
    """Write the page."""
    rows, verdicts = figures(results)
    devices = sorted({r["device"] for r in rows})
    models = sorted({(r["task"], r["data"], r["llm"][:16]) for r in rows})
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
        f"- Frozen LLM: an encoder-decoder warm-started from MiniLM ({ENCODER_LAYERS} and {DECODER_LAYERS['label']} layers,"
        f" embeddings kept; where titles are written {ENCODER_LAYERS} and {DECODER_LAYERS['text']}, embeddings tuned),"
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
        f"- A learning rate for each method and task, of {', '.join(f'{rate:g}' for rate in TRIED)}, by the loss on up to 512 examples held"
        " out of training (*Learning rates* below). Changed arms have their method's rate, tasks without a choice of their own"
        " news-category's.",
        "- tide and its ablations learn half of their examples, where targets are labels or ratings, from copies of users under exchanged"
        " labels (`train.relabelled`), and their"
        " heads say the window's targets to the LLM in its own embeddings (docs/concepts.md; not `tide-slots`, which has no window); the"
        " papers' arms know neither, `default` and `tide-shuffled-users` learn from no copies. Both were found by looking at test examples"
        " of news-category, seeds 0 and 1, which favours tide there; nothing else about tide was chosen by test examples.",
        "- Histories are what a nightly store held at 00:00 UTC of the query's day. States are read back in a bundle's types.",
        f"- The LLM reads the first {TASKS[0].characters} characters of a text ({LAMP[0].characters} of LaMP's),"
        f" {ITEM_CHARACTERS} of an item shown in its prompt; the text encoder reads its first 256 tokens. A user has at most"
        f" {MAX_OF_USER} test examples a split. A tenth of the training batches hide their queries from the head.",
        "- tapper's learned rows are fitted the night before a user's first judged example and not moved after it: on the latest 32 events,"
        " in sessions of 8 with a step of .05 each, which was set once and not chosen by task. In training, and so in the losses that rates"
        " are chosen by, rows are learned with the head. `tapper-no-user-row` has none."
        " Its bank is of the last night. Its bridge LoRA (`tapper.bridge`) is left out: it would be another LLM than the others'.",
        "- Strangers are known as of the example's own night, which many come after: of the raters', who come in bursts, two histories in"
        " five are then empty, of the others' at most one in fifty (`strangers_without_history` in the first line of every run).",
        "- Means are over the examples of all seeds, intervals 95 % of a bootstrap over their users. Answers are decoded greedily; those of"
        f" writing tasks for {WRITTEN} examples a split.",
        "",
        f"Not there: {absent(rows)}.",
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
        "Paired on the same examples; positive is the arm's gain (loss and errors are turned round). Bold: the interval excludes zero,"
        f" of {FEW} users or more.",
        "",
        *verdict_table(verdicts),
        *shape_and_age(rows, verdicts),
        "## Learning rates",
        "",
        "Loss of examples held out of training, by seed; bold: the rate that the figures are of. They were tried with"
        f" seed 0, the chosen one's neighbours among them; those within {NEAR} of the least have all the task's seeds, and of these the"
        f" least mean was taken; where all are within {SAME} of each other, the middle one stayed (`benchmarks/rates.py`). 3e-2 was left"
        " out for what it did to pplug's test examples of commits.",
        "",
        *rate_table(json.loads((results / "rates.json").read_text())),
        "## Costs",
        "",
        *cost_table(rows),
        "`tide-window` is tide with its slots masked: they are in its bytes all the same, as many as `tide-slots` has.",
        "",
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
