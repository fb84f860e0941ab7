"""``tapstate versions``: what versions there are, and how their names moved."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands import open_home
from flows.console import Output, OutputOption, emit

if TYPE_CHECKING:
    from store.home import Home


def versions(
    moves: Annotated[
        bool, typer.Option("--moves", help="List instead when which alias moved, from where to where, by whom and why.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """List versions that can be read, newest last. Versions of one aggregator form a line."""
    home = open_home()
    if moves:
        _moves(home, output)
        return
    from store.versions import aliases, counts, kept

    named = aliases(home)
    rows: list[dict[str, Any]] = [
        {
            "version": record.number,
            "aliases": named.get(record.number, []),
            "created_at": record.created_at.isoformat(timespec="seconds"),
            "aggregator": record.aggregator,
            "encoder": record.encoder,
            "users": counts(home, record)[0],
            "events": counts(home, record)[1],
            "parent": record.parent,
        }
        for record in kept(home)
    ]
    emit(rows, output, title=f"{len(rows)} versions")


def _moves(home: "Home", output: Output) -> None:
    from store.versions import moves

    rows = [
        {
            "at": move.created_at.isoformat(timespec="seconds"),
            "alias": move.name,
            "from": move.expected,
            "to": move.version,
            "rollback": move.rollback,
            "by": move.created_by,
            "reason": move.reason,
        }
        for move in moves(home)
    ]
    emit(rows, output, title=f"{len(rows)} moves")
