"""``tapstate maintain``: sweep, retire, fold, compact, index."""

from typing import Annotated, Any

import typer

from flows.commands import open_home
from flows.console import Output, OutputOption, emit, note


def maintain(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only show what would be done.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Sweep what killed writers left, retire old versions, compact and index tables; shows what and why first."""
    from store.action import Action
    from store.lease import lease
    from store.maintenance import maintain as work
    from store.maintenance import survey

    home = open_home()
    done: list[tuple[Action, str | None]]
    if yes:
        with lease(home, "maintain", "maintenance"):
            done = work(home)
    else:
        done = [(action, None) for action in survey(home)]
    rows: list[dict[str, Any]] = [{"what": a.what, "why": a.why, "bytes": a.bytes, "put_off": reason} for a, reason in done]
    if output is Output.json:
        emit({"done": yes, "bytes": sum(a.bytes for a, reason in done if reason is None), "actions": rows}, output)
        return
    if not rows:
        note("nothing to do")
        return
    emit([{k: v for k, v in row.items() if yes or k != "put_off"} for row in rows], output, title="done" if yes else "would be done")
    if not yes:
        note("nothing was changed; tapstate maintain --yes does it")
