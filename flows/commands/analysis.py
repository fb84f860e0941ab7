"""``tapstate sql``, ``similar`` and ``export``: questions to a home's tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands import UserArgument, VersionOption, meant, open_home
from flows.console import Output, OutputOption, emit, note
from schemas.errors import ConfigError, InputError

if TYPE_CHECKING:
    import polars as pl

#: Rows of a result that a terminal is shown.
SHOWN = 50


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over states, states@VERSION, events, rejects.")],
    to: Annotated[str, typer.Option(help="Write the whole result to this .parquet file, here or on an object store, instead.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Ask the home's tables in SQL (Polars'), read-only; states without @ are production's version."""
    from store.sql import explained
    from store.sql import query as plan

    with explained(query):
        lazy = plan(open_home(), query)
        if to:
            emit(_write(lazy, to), output)
            return
        # A terminal needs no more than it shows.
        frame = (lazy if output is Output.json else lazy.head(SHOWN + 1)).collect(engine="streaming")
    if output is Output.json:
        print(frame.write_json())
        return
    emit(_lines(frame.head(SHOWN)), output)
    if len(frame) > SHOWN:
        note(f"the first {SHOWN} rows; --output json or --to FILE.parquet gives all")


def similar(
    user: UserArgument,
    version: VersionOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    output: OutputOption = Output.table,
) -> None:
    """The users whose states are nearest to a user's, by cosine."""
    from store.snapshot import Snapshot

    home = open_home()
    snapshot = Snapshot.of(home, version)
    user = meant(home, user, snapshot.number)
    emit(snapshot.similar(user, top=top).to_dicts(), output, title=f"nearest to {user} at version {snapshot.number}")


def export(
    to: Annotated[str, typer.Argument(help="The .parquet file to write, here or on an object store.", metavar="FILE")],
    version: VersionOption = None,
    table: Annotated[str, typer.Option(help="states, events or rejects.")] = "states",
    output: OutputOption = Output.table,
) -> None:
    """Write a version's states, or the current events or rejects, to Parquet; memory is bounded."""
    from store import sql as tables

    if version and table != "states":
        raise ConfigError(f"{table} are current, they have no versions", mend="leave --version out")
    emit(_write(tables.table(open_home(), f"{table}@{version}" if version else table), to), output)


def _write(lazy: "pl.LazyFrame", to: str) -> dict[str, Any]:
    """Stream a lazy frame to a Parquet file: its place and rows."""
    import polars as pl

    if not to.endswith(".parquet"):
        raise InputError("only Parquet is written", where=to, mend="name a file that ends in .parquet")
    if "://" not in to and Path(to).exists():
        raise InputError("a file of that name is there already", where=to, mend="another name, or delete it first")
    try:
        lazy.sink_parquet(to, mkdir="://" not in to)
    except OSError as error:
        raise InputError(f"cannot write: {error}", where=to, mend="check the path, permissions and free space") from error
    rows = pl.scan_parquet(to).select(pl.len()).collect().item()
    return {"file": to if "://" in to else str(Path(to).absolute()), "rows": rows}


def _lines(frame: "pl.DataFrame") -> list[dict[str, Any]]:
    """Rows for a terminal: a vector is its first numbers and its length."""

    def short(value: Any) -> Any:
        if isinstance(value, list) and len(value) > 3:
            return f"[{', '.join(f'{x:.3g}' if isinstance(x, float) else str(x) for x in value[:3])}, … {len(value)}]"
        return value

    return [{name: short(value) for name, value in row.items()} for row in frame.to_dicts()]
