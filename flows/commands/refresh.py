"""``tapstate refresh``: one night."""

from typing import Annotated

import typer

from flows.commands import open_home
from flows.console import Output, OutputOption, emit, note


def refresh(
    full: Annotated[bool, typer.Option("--full", help="Rebuild every user from all events.")] = False,
    bundle: Annotated[bool, typer.Option(help="Publish a bundle of the new version, where a trained head fits.")] = True,
    line: Annotated[
        str | None, typer.Option(help="This line alone: production, candidate or the beginning of its hash. [default: both of them]")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """New events into a new version: encode, update the changed users, check, promote, bundle."""
    from flows.prefect_home import settle
    from store.lines import Lines

    home = open_home()
    # Before Prefect starts: a name that no line has is told at once.
    aggregator = Lines(home).find(line) if line else None
    settle(home)
    from flows.nightly import nightly

    result = nightly(home.uri, full=full, bundle=bundle, line=aggregator)
    emit(result, output, title=f"version {result['version']}")
    if not Lines(home).newest():
        note("the aggregator is untrained (seeded random weights) and has no head: run tapstate train, then tapstate refresh")
