"""``tapstate demo``: the whole job on generated histories."""

from typing import Annotated

import typer

from flows.console import Output, OutputOption


def demo(
    seed: Annotated[int, typer.Option(help="Seed of histories and training.")] = 0,
    directory: Annotated[str, typer.Option(help="Where to leave the home. (default: a temporary directory, removed)")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Generate users with planted, drifting tastes; train, ingest day by day, refresh three nights, bundle, and measure."""
    from flows.demo import run_demo

    run_demo(seed, directory, output)
