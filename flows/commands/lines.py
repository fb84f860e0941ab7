"""``tapstate lines``: production's line and the one that is to take its place."""

from typing import Annotated, Any

import typer

from flows import completion
from flows.commands import open_home
from flows.console import Output, OutputOption, emit
from schemas.errors import ConfigError


def lines(
    use: Annotated[
        str,
        typer.Option(
            help="Make a line (by the beginning of its hash) the newest again; production: drop the candidate.",
            autocompletion=completion.lines,
        ),
    ] = "",
    reason: Annotated[str, typer.Option(help="Why, for the record; needed with --use.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """List lines: the versions of one aggregator. Production's and the candidate's are refreshed every night, retired ones are not."""
    from store.lines import Lines

    home = open_home()
    known = Lines(home)
    if use:
        if not reason:
            raise ConfigError("--use needs a reason", mend=f"tapstate lines --use {use} --reason 'why'")
        aggregator = known.find(use)
        known.open(aggregator, known.encoder(aggregator), reason=reason)
    live, production = known.live(), known.production()
    opened = {record.aggregator: record for record in home.lines.all()}
    rows: list[dict[str, Any]] = []
    for aggregator in known.all():
        mine = [record for record in home.versions.all() if record.aggregator == aggregator]
        role = "production" if production and production.aggregator == aggregator else "candidate" if aggregator in live else "retired"
        record = opened.get(aggregator)
        rows.append(
            {
                "line": aggregator,
                "role": role,
                "versions": len(mine),
                "newest": mine[-1].number if mine else None,
                "encoder": known.encoder(aggregator).model or "bundled MiniLM",
                "opened_at": record.created_at.isoformat(timespec="seconds") if record else None,
                "by": record.created_by if record else None,
                "reason": record.reason if record else None,
            }
        )
    emit(rows, output, title=f"{len(rows)} lines")
