"""The quality benchmark: every arm, on real histories, against one frozen LLM a task.

``python -m benchmarks.quality [--task T] [--arm A] [--seed S] [--split known|new] [--data DIR]`` runs any part of it. What each example
came to is kept in ``benchmarks/.cache`` (no texts); the tables in ``benchmarks/results`` are made from all that is kept there.
"""

import itertools
import json
import os
import platform
import sys
import time
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
import typer

from benchmarks import arms
from benchmarks.arms import ARMS, PROMPTED, REFERENCE, Outcome
from benchmarks.bench import Bench, build, describe
from benchmarks.controls import LiveExamples
from benchmarks.costs import costs
from benchmarks.frozen import CACHE, STEPS, config_for, frozen_llm
from benchmarks.oppu import personal
from benchmarks.rates import rate_of
from benchmarks.tables import AGED, refuse_others, write_tables, write_whole
from benchmarks.tasks import choose
from benchmarks.variants import LIVE, SHAPES, TRAINED, Budget, arm_config, arm_section, bank_of, training_of
from encoders.examples import Ints
from encoders.llm import FrozenLLM
from encoders.text import TextEncoder
from encoders.training import Trained
from pipelines.memory import keep_freed
from schemas.config import EncoderConfig
from schemas.errors import TapstateError
from schemas.keys import content_hash

SPLITS: tuple[Literal["known", "new"], ...] = ("known", "new")


def device() -> str:
    """What a row says it was made on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return f"CPU {model or platform.machine()}, {os.cpu_count()} cores"


def run_arm(bench: Bench, llm: FrozenLLM, arm: str, seed: int, splits: tuple[str, ...], budget: Budget, most: int) -> dict[str, Any]:
    """Outcomes of one arm by split, and what it costs; trained on histories of the last night, whatever it is judged on."""
    nightly, lag = bench, max(0, budget.lag)
    if budget.lag == LIVE:
        bench = replace(bench, examples=LiveExamples(**vars(bench.examples)))
    rows = {split: bench.rows(seed, cast(Any, split), most) for split in splits}
    every = np.concatenate(list(rows.values()))
    sample = np.random.default_rng(seed).choice(every, min(50, len(every)), replace=False)
    arms.refuse_leaks(bench.examples, sample, bench.event, live=budget.lag == LIVE)
    found: dict[str, Any] = {"costs": {}}
    if arm == "llm-times-prior":
        found.update({split: arms.times_prior(bench, llm, chosen) for split, chosen in rows.items()})
    elif arm in REFERENCE:
        found.update({split: arms.references(bench, arm, chosen) for split, chosen in rows.items()})
    elif arm in PROMPTED:

        def nothing(batch: Ints) -> torch.Tensor:
            return torch.zeros(len(batch), 0, llm.dim)

        found.update({s: arms.judge(bench, llm, r, nothing, arms.prompted(bench, arm, r)) for s, r in rows.items()})
    elif arm == "oppu":
        for split, chosen in rows.items():
            found[split], found["costs"] = personal(bench, llm, chosen, seed)
    else:
        trained = _learned(nightly, llm, training_of(arm), seed, replace(budget, lag=0))
        trained = replace(trained, aggregator=bank_of(arm, trained.aggregator, budget))
        prefixes = arms.served(bench, trained, arm, seed, lag, every)
        found.update({split: arms.judge(bench, llm, chosen, prefixes) for split, chosen in rows.items()})
        found["costs"] = costs(bench, trained, arm, every)
        found["held_out"] = trained.metrics["loss"]["right"]
    return found


@lru_cache(maxsize=1)
def _learned(bench: Bench, llm: FrozenLLM, arm: str, seed: int, budget: Budget) -> Trained:
    """The arm's training, which its states of other ages and the arms of ``training_of`` share."""
    return arms.learn(bench, llm, arm, seed, budget)


def keep(directory: Path, name: str, outcome: Outcome, about: dict[str, Any]) -> None:
    """One arm, seed and split: arrays and what made them."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(directory / f"{name}.npz", **outcome.arrays())  # type: ignore[arg-type]
    write_whole(directory / f"{name}.json", json.dumps(about, indent=1, sort_keys=True))


def run(
    task: Annotated[list[str] | None, typer.Option(help="Tasks; again for more. [default: all]")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Arms; again for more. [default: all but changed shapes of tide]")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; again for more. [default: 0, 1 and 2]")] = None,
    split: Annotated[
        Literal["known", "new", "both"], typer.Option(help="Users with examples in training, those without, or both.")
    ] = "both",
    data: Annotated[Path, typer.Option(help="Directory of the data sets.")] = Path("../shared/data"),
    source: Annotated[str, typer.Option(help="Data set of the task, where it has several.")] = "",
    cache: Annotated[Path, typer.Option(help="Encoded texts, tuned LLMs, outcomes of single examples.")] = CACHE,
    results: Annotated[Path, typer.Option(help="Where the figures go.")] = Path(__file__).parent / "results",
    steps: Annotated[int, typer.Option(help="Steps of every trained arm; runs of others do not count.")] = Budget.steps,
    rate: Annotated[
        float | None, typer.Option(help="Learning rate; runs of others do not count. [default: chosen by task and method]")
    ] = None,
    age: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Judge states so many nights old; again for more; rows have a split of their own, known+7."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Judge on histories up to the second before as well; rows have a split of their own, known+live.")
    ] = False,
    examples: Annotated[int | None, typer.Option(help="Test examples of a split, at most. [default: the task's own]")] = None,
    tuning_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of tuning the frozen LLM; runs of others do not count. [default: by kind of task]")
    ] = None,
    replace_rows: Annotated[
        bool, typer.Option("--replace", help="Rows of the task against another LLM or on other events go; without it nothing runs.")
    ] = False,
    tables: Annotated[bool, typer.Option(help="Only make the tables again.")] = False,
) -> None:
    """Run arms, keep their outcomes, and make the tables."""
    if unknown := set(arm or []) - {*ARMS, *SHAPES}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; arms: {', '.join((*ARMS, *SHAPES))}")
    keep_freed()
    try:
        if tables:
            write_tables(cache / "outcomes", results, replace=replace_rows)
            return
        chosen = choose(data, task or [], source)
        budget, encoder = replace(Budget(), steps=steps), TextEncoder(EncoderConfig())
    except TapstateError as error:
        sys.exit(str(error))
    failed = 0
    for one in chosen:
        trial = {"tuning_steps": tuning_steps} if tuning_steps not in (None, STEPS[one.kind]) else {}
        try:
            bench = build(one, data, cache, encoder, config_for(one))
            print(describe(bench), file=sys.stderr, flush=True)
            llm = frozen_llm(bench, cache, steps=tuning_steps)
            judges = {(one.name, one.data): (llm.fingerprint, bench.content)}
            if not trial and not replace_rows:
                refuse_others(results, judges)
        except TapstateError as error:
            print(error, file=sys.stderr, flush=True)
            failed = 1
            continue
        for number in seed if seed is not None else [0, 1, 2]:
            for name, lag in itertools.product(arm or ARMS, [*(age or [0]), *([LIVE] if live else [])]):
                if (name in REFERENCE and one.kind != "label") or (lag > 0 and name not in TRAINED):
                    continue
                # Histories are shuffled as the last night had them.
                if lag == LIVE and ("shuffled" in name or "swapped" in name):
                    continue
                splits = SPLITS if split == "both" else (split,)
                given = replace(budget, lag=lag, learning_rate=rate or rate_of(one.name, name))
                _one(bench, llm, name, number, splits, given, examples or one.examples, cache, trial)
                if not trial:
                    write_tables(cache / "outcomes", results, judges, replace=replace_rows)
    sys.exit(failed)


def _one(
    bench: Bench,
    llm: FrozenLLM,
    name: str,
    seed: int,
    splits: tuple[str, ...],
    budget: Budget,
    most: int,
    cache: Path,
    trial: dict[str, Any],
) -> None:
    """Run one arm unless the same was kept before: of the same events and LLM, and if it is trained of the same configuration."""
    made: dict[str, Any] = {**trial, "llm": llm.fingerprint, "content": bench.content, "seed": seed, "examples": most, "device": device()}
    if name in TRAINED:
        made.update(budget=asdict(budget), config=arm_section(arm_config(name, seed, budget)))
    elif budget.lag:
        made["lag"] = budget.lag
    known_by: dict[str, Any] = {**made, "device": ""}
    key = content_hash(known_by)[:12]
    directory = cache / "outcomes" / f"{bench.task.name}@{bench.task.data}"
    kept = {s: directory / f"{name}-{seed}-{s}-{key}.json" for s in splits}
    missing = tuple(s for s, path in kept.items() if not path.is_file())
    for path in (kept[s] for s in splits if s not in missing):
        # The tables are of the latest LLM and events.
        path.touch()
    if not missing:
        return
    started = time.monotonic()
    found = run_arm(bench, llm, name, seed, missing, budget, most)
    for one in missing:
        about = {**made, "task": bench.task.name, "data": bench.task.data, "kind": bench.task.kind, "arm": name}
        about["split"] = f"{one}{AGED}{'live' if budget.lag == LIVE else budget.lag}" if budget.lag else one
        told = {"held_out": found["held_out"]} if "held_out" in found else {}
        keep(directory, f"{name}-{seed}-{one}-{key}", found[one], {**about, **told, "labels": len(bench.labels), "costs": found["costs"]})
        means = {c: round(float(np.nanmean(x)), 4) for c, x in found[one].columns.items() if c not in ("found", "gold")}
        line = {"arm": name, "seed": seed, "split": one, "n": len(found[one].event), **means, **told}
        line["s"] = round(time.monotonic() - started)
        print(json.dumps(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(run)
