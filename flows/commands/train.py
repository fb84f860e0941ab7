"""``tapstate train``: fit aggregator and head to the home's events and an LLM."""

from typing import Annotated, Any

import typer

from flows.commands import open_home
from flows.console import Bars, Output, OutputOption, emit
from schemas.config import Personalizer


def train(
    llm: Annotated[
        str, typer.Option(help="Hugging Face causal or seq2seq model, directory or id. (default: llm.model of config.toml)")
    ] = "",
    personalizer: Annotated[Personalizer | None, typer.Option(help="tide, pplug or tapper. (default: personalizer of config.toml)")] = None,
    head_only: Annotated[
        bool, typer.Option("--head-only", help="Fit a head for --llm to the newest line's aggregator; its states and nightly bundles stay.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Another seed than the configuration's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Most optimizer steps.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Train through the frozen LLM; opens a line. The next refresh builds its first version from all events.

    Beside a trained line in production it becomes the candidate, refreshed every night too, until one of its versions is promoted.
    """
    from flows import datasets, lineage
    from pipelines.fit import fit

    home = open_home()
    config = home.config
    if llm:
        config = config.model_copy(update={"llm": config.llm.model_copy(update={"model": llm})})
    if personalizer is not None:
        config = config.model_copy(update={"personalizer": personalizer})
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    if steps is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    with lineage.run("train", [datasets.events(home, home.ingests.last())]) as told, Bars() as meter:
        fitted = fit(home, config, head_only=head_only, meter=meter)
        told.writes = datasets.models(home, *([] if head_only else [fitted.aggregator]), fitted.head)
    result: dict[str, Any] = {"aggregator": fitted.aggregator, "head": fitted.head, "llm": fitted.llm, **fitted.metrics}
    tasks = result.pop("tasks", {}) if output is Output.table else {}
    emit(result, output, title="held-out slice: loss and exact answers with the right user's prefix, the default one, another user's")
    rows = [
        {"task": task, **{f"{figure}, {arm}": x for figure, arms in of.items() for arm, x in arms.items()}} for task, of in tasks.items()
    ]
    if rows:
        emit(rows, output, title="the same for each task")
