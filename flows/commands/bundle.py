"""``tapstate bundle``: a version for serving."""

from typing import Annotated

import typer

from flows.commands import open_home
from flows.console import Bars, Output, OutputOption, emit


def bundle(
    version: Annotated[str | None, typer.Option(help="Number, alias or moment. [default: production]")] = None,
    head: Annotated[str, typer.Option(help="Hash of the head, for another LLM (train --head-only); CURRENT stays. [default: in use]")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Write a version's bundle and let CURRENT name it."""
    from encoders.text import TextEncoder
    from pipelines.publish import publish
    from store.lines import Lines
    from store.versions import resolve

    home = open_home()
    record = resolve(home, version)
    with Bars() as meter:
        uri, manifest = publish(home, record, TextEncoder(Lines(home).encoder(record.aggregator)), meter, head=head or None)
    states = sum(manifest["files"][file["name"]]["bytes"] for file in manifest["states"]["files"])
    emit(
        {
            "bundle": uri,
            "bundle_id": manifest["bundle_id"],
            "version": record.number,
            "users": manifest["users"],
            "head": manifest["head"],
            "llm": manifest["llm"]["model"],
            "bytes_per_user": round(states / max(1, manifest["users"])),
        },
        output,
    )
