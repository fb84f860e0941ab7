"""``tapstate doctor``: what is wrong, and what mends it."""

from dataclasses import asdict

import typer

from flows.commands import open_home
from flows.console import Output, OutputOption, emit
from schemas.errors import CheckError


def doctor(output: OutputOption = Output.table) -> None:
    """Look at the environment, the home and its last nights; exit code 5 if something is broken."""
    from flows.doctor import examine

    found = examine(open_home())
    emit([asdict(finding) for finding in found], output)
    if any(finding.status == "fail" for finding in found):
        raise typer.Exit(CheckError.exit_code)
