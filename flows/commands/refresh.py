"""``tapstate refresh``: one night."""

from enum import StrEnum
from typing import Annotated

import typer

from flows import completion
from flows.commands import open_home
from flows.console import Output, OutputOption, emit, note


class Engines(StrEnum):
    """What ``engine.name`` can be."""

    local = "local"
    beam = "beam"


def refresh(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Rebuild every user from all events.")] = False,
    bundle: Annotated[bool, typer.Option(help="Publish a bundle of the new version, where a trained head fits.")] = True,
    line: Annotated[
        str | None,
        typer.Option(
            help="This line alone: production, candidate or the beginning of its hash. (default: both of them)",
            autocompletion=completion.lines,
        ),
    ] = None,
    engine: Annotated[Engines | None, typer.Option(help="Where shards run. (default: engine.name of config.toml)")] = None,
    runner: Annotated[str | None, typer.Option(help="Beam runner, by its short name or its class's full name.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """New events into a new version: encode, update the changed users, check, promote, bundle.

    What stands after -- goes to the Beam runner:
    tapstate refresh --engine beam -- --direct_running_mode=multi_processing --direct_num_workers=2
    """
    from flows.prefect_home import settle
    from store.lines import Lines

    home = open_home()
    # Before Prefect starts: a name that no line has is told at once.
    aggregator = Lines(home).find(line) if line else None
    settle(home)
    from flows.nightly import nightly

    result = nightly(home.uri, full=full, bundle=bundle, line=aggregator, engine=engine, runner=runner, options=context.args or None)
    emit(result, output, title=f"version {result['version']}")
    if not Lines(home).newest():
        note("the aggregator is untrained (seeded random weights) and has no head: run tapstate train, then tapstate refresh")
