"""``tapstate versions``: what versions there are."""

from typing import Any

from flows.commands import open_home
from flows.console import Output, OutputOption, emit


def versions(output: OutputOption = Output.table) -> None:
    """List versions, newest last."""
    from store.versions import aliases

    home = open_home()
    named = aliases(home)
    rows: list[dict[str, Any]] = [
        {
            "version": record.number,
            "aliases": named.get(record.number, []),
            "created_at": record.created_at.isoformat(timespec="seconds"),
            "aggregator": record.aggregator if output is Output.json else record.aggregator[:12],
            "encoder": record.encoder if output is Output.json else record.encoder[:12],
            "users": record.users,
            "events": record.events,
            "parent": record.parent,
        }
        for record in home.versions.all()
    ]
    emit(rows, output, title=f"{len(rows)} versions")
