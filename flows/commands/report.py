"""``tapstate report``: a version's figures as a page, and as JSON."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows import completion
from flows.commands import open_home
from flows.console import Output, OutputOption, emit, note


def report(
    version: Annotated[
        str | None,
        typer.Argument(
            help="Number, alias, moment (what production named then) or alias@moment. (default: production)",
            autocompletion=completion.versions,
        ),
    ] = None,
    after: Annotated[
        str | None, typer.Argument(help="Another one: report on it, compared with the first.", autocompletion=completion.versions)
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write the page to this file. (default: reports/ of the home)")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Write one self-contained page on a version, and print its path: counts, checks, times, drift, rejects, a map of states.

    A version is compared with its parent and with what production named when it was made; two versions with each other.
    """
    from pipelines.report import write_report
    from store.versions import resolve

    home = open_home()
    records = [resolve(home, reference) for reference in ([version] if after is None else [version, after])]
    path, found = write_report(home, records[-1], records[0] if after else None, to=to)
    if output is Output.json:
        note(f"page: {path}")
        emit(json.loads(found.model_dump_json()), output)
    else:
        print(path)
