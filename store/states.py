"""User states: appended by refreshes, read by version.

A refresh appends the users it changed, tagged with its run; a version's record lists the runs that make it up. A user's
state at that version is their row of the latest of those runs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.compute import Expression

from schemas.keys import user_key
from schemas.states import STATE_KEYS, StateSpec
from store.home import Home
from store.places import Pick

#: With an index that lacks some rows, as it does after every night, Lance reads those rows whole before it filters them: 3 s for one
#: user of a million, where a pass over the keys takes 0.1 s.
PASS: dict[str, Any] = {"use_scalar_index": False}


class States:
    """States of one aggregator.

    Args:
        home: the home.
        aggregator: the aggregator's hash.
        spec: its columns.
    """

    def __init__(self, home: Home, aggregator: str, spec: StateSpec) -> None:
        self.home, self.name = home, f"states-{aggregator[:16]}"
        self.schema = pa.schema([*STATE_KEYS, *spec.schema()])

    def mark(self) -> int:
        """To be taken before events and parents are read: see ``Tables.mark``."""
        return self.home.tables.mark(self.name, self.schema)

    def stage(self, rows: pa.Table, since: int) -> list[str]:
        """Write rows aside; ``commit`` makes them part of the table."""
        return self.home.tables.stage(self.name, rows.cast(self.schema), since)

    def commit(self, run: int, fragments: Sequence[str]) -> None:
        """Append the staged rows of ``run`` in one step; done already, it does nothing.

        Raises:
            ConflictError: an erasure came since a row's mark.
        """
        self.home.tables.ensure(self.name, self.schema)
        if fragments and not any(
            batch.num_rows for batch in self.home.tables.scan(self.name, ["run"], filter=pc.field("run") == run, limit=1)
        ):
            self.home.tables.commit(self.name, fragments)

    def read(
        self,
        runs: Sequence[int],
        columns: Sequence[str] | None = None,
        *,
        keys: npt.NDArray[np.int64] | None = None,
        low: int | None = None,
        high: int | None = None,
        gone: bool = False,
    ) -> pa.Table:
        """States of the version made of ``runs`` (oldest first), one row a user, sorted by (user_key, user_id).

        Args:
            columns: which columns; all by default.
            keys: only users with these keys.
            low, high: only users with keys in this range; not together with ``keys``.
            gone: also users whose events are all gone.
        """
        wanted = list(columns) if columns is not None else self.schema.names
        needed = list(dict.fromkeys([*wanted, "user_id", "user_key", "run", "event_count"]))
        if keys is not None:
            among = {"user_key": np.asarray(keys), "run": np.asarray(runs, np.int64)}
            latest = self.home.tables.find(self.name, self.schema, needed, among, newest(runs), **PASS)
        else:
            filter: Expression = pc.field("run").isin(pa.array(runs, pa.int64()))
            if low is not None:
                filter = filter & (pc.field("user_key") >= low)
            if high is not None:
                filter = filter & (pc.field("user_key") <= high)
            latest = newest(runs).of(self.home.tables.read(self.name, self.schema, needed, filter=filter, **PASS))
        # Filtering copies the rows, list by list; most often there is nothing to drop.
        if not gone and not pc.all(pc.greater(latest.column("event_count"), 0)).as_py():
            latest = latest.filter(pc.field("event_count") > 0)
        return latest.select(wanted)

    def rows(self, keys: npt.NDArray[np.int64]) -> pa.Table:
        """Every row ever written of the users with these keys, whichever run wrote it."""
        filter = pc.field("user_key").isin(pa.array(keys))
        return self.home.tables.read(self.name, self.schema, self.schema.names, filter=filter, **PASS)

    def written(self, runs: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
        """Keys of the users that ``runs`` wrote, in batches; a key may come more than once."""
        if runs:
            filter = pc.field("run").isin(pa.array(runs, pa.int64()))
            for batch in self.home.tables.scan(self.name, ["user_key"], filter=filter):
                yield batch.column("user_key").to_numpy()

    def ids(self, runs: Sequence[int]) -> Iterator[list[str]]:
        """Ids of the users that ``runs`` wrote, in batches, gone ones too; an id may come more than once."""
        filter = pc.field("run").isin(pa.array(runs, pa.int64()))
        for batch in self.home.tables.scan(self.name, ["user_id"], filter=filter, **PASS):
            yield batch.column("user_id").to_pylist()

    def user(self, runs: Sequence[int], user_id: str) -> pa.Table:
        """The state of one user, zero or one row."""
        table = self.read(runs, keys=np.array([user_key(user_id)], np.int64))
        return table.filter(pc.field("user_id") == user_id)


def newest(runs: Sequence[int]) -> Pick:
    """Each user's row of the latest of ``runs`` (oldest first), sorted by (user_key, user_id)."""

    def choose(table: pa.Table) -> npt.NDArray[np.int64]:
        age = pc.index_in(table.column("run"), value_set=pa.array(list(reversed(runs)), pa.int64()))
        users = table.column("user_id")
        order = pc.sort_indices(
            pa.table({"user_key": table.column("user_key"), "user_id": users, "age": age}),
            sort_keys=[("user_key", "ascending"), ("user_id", "ascending"), ("age", "ascending")],
        )
        users = users.take(order)
        first = np.ones(len(order), bool)
        first[1:] = pc.not_equal(users[1:], users[:-1]).to_numpy()
        chosen: npt.NDArray[np.int64] = order.to_numpy()[first].astype(np.int64)
        return chosen

    return Pick(("user_key", "user_id", "run"), choose)
