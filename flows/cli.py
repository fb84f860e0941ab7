"""``tapstate``: the command line."""

import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

from flows.commands import (
    analysis,
    bundle,
    demo,
    deploy,
    diff,
    doctor,
    erase,
    history,
    ingest,
    init,
    lines,
    maintain,
    promote,
    refresh,
    report,
    serve,
    show,
    train,
    ui,
    versions,
)
from flows.completion import ASKED, answer
from flows.console import EXIT_CODES, stderr
from flows.finding import EVERYTHING
from pipelines.memory import collect_seldom
from schemas.errors import ConfigError, TapstateError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="User states for personalised LLMs: ingest events, refresh states nightly, bundle them for serving.",
    epilog=f"Exit codes: {', '.join(f'{code} {means}' for code, means in EXIT_CODES.items())}.",
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        for name in ("tapstate", "torch", "onnxruntime-gpu", "onnxruntime", "lancedb", "pylance", "prefect", "transformers"):
            try:
                print(name, version(name))
            except ModuleNotFoundError:
                continue
        raise typer.Exit


@app.callback()
def root(
    home: Annotated[
        str, typer.Option("--home", envvar="TAPSTATE_HOME", help="Directory or object-store URI of the home.")
    ] = "tapstate-home",
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions and stop.")] = False,
) -> None:
    """Remember the home for every command."""
    os.environ["TAPSTATE_HOME"] = home


app.command("init")(init.init)
app.add_typer(ingest.app, name="ingest")
app.command("train")(train.train)
app.command("refresh", context_settings={"allow_extra_args": True})(refresh.refresh)
app.command("versions")(versions.versions)
app.command("lines")(lines.lines)
app.command("show")(show.show)
app.command("history")(history.history)
app.command("diff")(diff.diff)
app.command("sql")(analysis.sql)
app.command("similar")(analysis.similar)
app.command("export")(analysis.export)
app.command("report")(report.report)
app.command("promote")(promote.promote)
app.command("rollback")(promote.rollback)
app.add_typer(bundle.app, name="bundle")
app.command("pull")(bundle.pull)
app.command("serve")(serve.serve)
app.command("ui")(ui.ui)
app.command("erase")(erase.erase)
app.command("maintain")(maintain.maintain)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("deploy")(deploy.deploy)


def main() -> None:
    """Run the command line; errors of ours become one message, which begins with their name in docs/runbook.md, and their exit code."""
    collect_seldom()
    if os.environ.get(ASKED, "").startswith("complete_"):
        answer(app)
    try:
        app()
    except TapstateError as error:
        stderr.print(f"[bold red]{type(error).__name__}:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        # Who only reads versions and bundles need not install what makes them.
        lacking = ConfigError(f"this needs {error.name}, which is not installed", mend=EVERYTHING)
        stderr.print(f"[bold red]ConfigError:[/] {escape(str(lacking))}", highlight=False, soft_wrap=True)
        sys.exit(lacking.exit_code)


if __name__ == "__main__":
    main()
