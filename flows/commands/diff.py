"""``tapstate diff``: what differs between two versions."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows import completion
from flows.commands import open_home
from flows.console import Output, OutputOption, emit


def diff(
    before: Annotated[
        str,
        typer.Argument(
            help="Number, alias, moment (ISO 8601: what production named then) or alias@moment.", autocompletion=completion.versions
        ),
    ],
    after: Annotated[str, typer.Argument(help="The other version.", autocompletion=completion.versions)],
    top: Annotated[int, typer.Option(min=0, help="Users to name, those who moved most.")] = 10,
    output: OutputOption = Output.table,
) -> None:
    """Compare two versions: who appeared, vanished and moved, and how far (1 − cosine of their vectors).

    Between two lines, whose vectors cannot be compared, the neighbours of a panel of users are: overlap@10 and linear CKA.
    """
    from store.comparison import View, compare
    from store.versions import resolve

    home = open_home()
    records = [resolve(home, reference) for reference in (before, after)]
    found = compare(*(View.of(home, record) for record in records), top=top)
    a, b = records
    result: dict[str, Any] = {
        "before": a.number,
        "after": b.number,
        "one_line": found.one_line,
        "users": {"before": a.users, "after": b.users, "appeared": found.appeared, "vanished": found.vanished},
        "moved": found.moved if found.one_line else None,
        "cosine_shift": {name: round(value, 6) for name, value in found.quantiles().items()} or None,
        "panel": {"users": len(found.panel), "neighbour_overlap": round(found.overlap, 4), "cka": round(found.alignment, 4)},
    }
    movers = [asdict(mover) for mover in found.movers]
    if output is Output.json:
        emit({**result, "movers": movers}, output)
        return
    emit(result, output, title=f"version {a.number} → {b.number}")
    if movers:
        emit(movers, output, title="moved most")
