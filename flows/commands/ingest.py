"""``tapstate ingest``: events from a source into the home."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import open_home
from flows.console import Bars, Output, OutputOption, emit, note
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.sources import Source

app = typer.Typer(
    no_args_is_help=True, help="Read events from a source. What is there already adds nothing; what cannot be an event goes to rejects."
)

Historical = Annotated[
    bool, typer.Option("--historical", help="Events without a knowledge time were known when they happened (a first load).")
]
#: Exit code when part of a source could not be read.
DAMAGED = 3


@app.command()
def table(
    files: Annotated[list[str], typer.Argument(help="Parquet, CSV or JSONL files (.gz too), directories, globs or object-store URIs.")],
    map: Annotated[
        list[str] | None, typer.Option("--map", help="FIELD=COLUMN, repeatable; a field takes the column of its own name otherwise.")
    ] = None,
    const: Annotated[list[str] | None, typer.Option("--const", help="FIELD=VALUE for every row, repeatable.")] = None,
    historical: Historical = False,
    output: OutputOption = Output.table,
) -> None:
    """Read tables. Fields: user_id, event_id, ts, known_at, text, target, value, task, op."""
    from pipelines.sources.table import TableSource

    _run(TableSource(files, _pairs(map or [], "--map"), _pairs(const or [], "--const")), historical, output)


@app.command()
def gitlog(
    repository: Annotated[str, typer.Argument(help="A local git repository.")],
    historical: Historical = False,
    output: OutputOption = Output.table,
) -> None:
    """Read a repository's history: subjects by author, known when committed; the target is the top directory changed."""
    from pipelines.sources.gitlog import GitLogSource

    _run(GitLogSource(repository), historical, output)


@app.command()
def movielens(
    directory: Annotated[str, typer.Argument(help="MovieLens as GroupLens publishes it.")],
    historical: Historical = False,
    output: OutputOption = Output.table,
) -> None:
    """Read MovieLens ratings: titles and genres; the target is the rating."""
    from pipelines.sources.movielens import MovieLensSource

    _run(MovieLensSource(directory), historical, output)


@app.command()
def lamp(
    directory: Annotated[str, typer.Argument(help="LaMP's published files, as downloaded.")],
    task: Annotated[str, typer.Option(help="LaMP task, for example LaMP_3.")],
    historical: Historical = False,
    output: OutputOption = Output.table,
) -> None:
    """Read the profiles of a LaMP task."""
    from pipelines.sources.lamp import LampSource

    _run(LampSource(directory, task), historical, output)


def _run(source: "Source", historical: bool, output: Output) -> None:
    from flows.intake import take_in

    home = open_home()
    with Bars() as meter:
        record, damaged = take_in(home, source, historical=historical, meter=meter)
    counts = {name: getattr(record, name) for name in ("read", "accepted", "duplicate", "corrected", "rejected")}
    emit(counts, output, title=f"ingest {record.number}: read = accepted + duplicate + corrected + rejected")
    if record.rejected:
        reasons = _reasons(home.uri, record.number)
        note(f"{record.rejected:,} rows rejected{reasons}; each with its reason, source and line is in the table rejects")
    for text in damaged:
        note(f"damaged: {text}\n  mend: ingest a whole copy of it; what was read counts already and will not count twice")
    if damaged:
        raise typer.Exit(DAMAGED)


def _reasons(uri: str, number: int) -> str:
    """The commonest reasons of an ingest's rejects."""
    from store.events import EventLog
    from store.home import Home

    rejects = EventLog(Home(uri)).rejects(number)
    run = Home(uri).ingests.range(number - 1, number)[0].run
    counts = rejects.filter(rejects["ingest"] == run)["reason"].value_counts(sort=True).head(5)
    return "".join(f"\n  {count:,}: {reason}" for reason, count in counts.iter_rows()) + ("\n" if len(counts) else "")


def _pairs(options: list[str], name: str) -> dict[str, str]:
    pairs = {}
    for option in options:
        field, sign, value = option.partition("=")
        if not sign or not field:
            raise ConfigError(f"{name} {option}: not FIELD=VALUE", mend=f"{name} user_id=author")
        pairs[field] = value
    return pairs
