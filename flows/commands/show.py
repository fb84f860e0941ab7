"""``tapstate show``: one user's state."""

from typing import Any

from flows.commands import UserArgument, VersionOption, meant, open_home
from flows.console import Output, OutputOption, emit
from schemas.errors import NotFoundError


def show(
    user: UserArgument,
    version: VersionOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show a user's state at a version: events behind it and what each column holds."""
    import numpy as np

    from schemas.states import StateBatch
    from store.models import Models
    from store.states import States
    from store.versions import resolve

    home = open_home()
    record = resolve(home, version)
    user = meant(home, user, record.number)
    spec = Models(home).spec(record.aggregator)
    row = States(home, record.aggregator, spec).user(record.runs, user)
    if not row.num_rows:
        raise NotFoundError(
            f"no user {user!r} at version {record.number}", where=home.uri, mend="tapstate versions; ids are exact, case included"
        )
    about = row.select(["user_id", "event_count", "first_ts", "last_ts"]).to_pylist()[0]
    state = StateBatch.from_arrow(row, spec)
    columns: dict[str, Any] = {}
    for column in spec.columns:
        array = state.columns[column.name]
        shape = array.shape if column.per == "item" else array.shape[1:]
        figures: dict[str, Any] = {"shape": "×".join(map(str, shape)) or "1", "dtype": column.dtype}
        if array.dtype.kind == "f" and array.size:
            finite = array[np.isfinite(array)].astype(np.float64)
            figures["rms"] = round(float(np.sqrt(np.mean(finite**2))), 6) if finite.size else None
        if output is Output.json:
            figures["values"] = array.reshape(-1).tolist() if column.per == "item" else array[0].tolist()
        columns[column.name] = figures
    emit({**about, "version": record.number, "aggregator": record.aggregator, "state": columns}, output)
