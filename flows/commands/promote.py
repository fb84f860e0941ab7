"""``tapstate promote`` and ``tapstate rollback``: move an alias."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows import completion
from flows.commands import open_home
from flows.console import Output, OutputOption, emit, note

if TYPE_CHECKING:
    from schemas.records import AliasRecord

Alias = Annotated[str, typer.Option(help="The alias to move.", autocompletion=completion.aliases)]
Reason = Annotated[str, typer.Option(help="Why, for the alias's history.")]


def promote(
    version: Annotated[str, typer.Argument(help="Number, alias, moment or alias@moment.", autocompletion=completion.versions)],
    reason: Reason,
    alias: Alias = "production",
    expect: Annotated[
        int | None, typer.Option(min=0, help="Only if the alias names this version; 0: only if it names none. (default: what it names now)")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Let an alias name a version, whatever its checks said. Promoting a candidate's version makes its line production's."""
    from store.versions import current, resolve
    from store.versions import promote as move

    home = open_home()
    record = resolve(home, version)
    expected = current(home, alias) if expect is None else expect or None
    for check in record.checks:
        if not check.passed:
            note(f"version {record.number} failed a check: {check.name} is {check.value:.4g}, the line is {check.limit:.4g}")
    _tell(move(home, record.number, alias=alias, expected=expected, reason=reason), output)


def rollback(reason: Reason, alias: Alias = "production", output: OutputOption = Output.table) -> None:
    """Let an alias name the version it named before. Nightly refreshes then leave production there until a version is promoted."""
    from store.versions import rollback as move

    _tell(move(open_home(), alias=alias, reason=reason), output)


def _tell(move: "AliasRecord", output: Output) -> None:
    emit(
        {"alias": move.name, "version": move.version, "before": move.expected, "at": move.created_at.isoformat(), "by": move.created_by,
         "reason": move.reason},
        output,
    )  # fmt: skip
