"""``tapstate history``: one user across versions."""

from typing import Annotated, Any

import typer

from flows.commands import UserArgument, meant, open_home
from flows.console import Output, OutputOption, emit
from schemas.errors import NotFoundError


def history(
    user: UserArgument,
    all: Annotated[bool, typer.Option("--all", help="Also versions that left the user's state as it was.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show the versions that changed a user's state: events behind it, and how far it moved within its line (1 − cosine)."""
    from store.history import user_history
    from store.versions import kept

    home = open_home()
    user = meant(home, user)
    entries = user_history(home, user)
    if not any(entry.present for entry in entries):
        raise NotFoundError(f"no version holds a user {user!r}", where=home.uri, mend="ids are exact, case included; tapstate versions")
    rows: list[dict[str, Any]] = [
        {
            "version": e.version,
            "created_at": e.created_at.isoformat(timespec="seconds"),
            "line": e.aggregator,
            "changed": e.changed,
            "events": e.events,
            "first_ts": e.first_ts.isoformat() if e.first_ts else None,
            "last_ts": e.last_ts.isoformat() if e.last_ts else None,
            "shift": e.shift,
            "norm": e.norm,
        }
        for e in entries
        if all or e.changed
    ]
    emit(rows, output, title=f"{len(rows)} of {len(kept(home))} versions")
