"""Subjects of an erasure: some users, or some events, and what of the home is theirs.

Everything is asked for all subjects at once: one scan a table, whatever their number.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.compute import Expression

from pipelines import keys
from schemas.events import EVENTS, REJECTS
from schemas.keys import user_hash
from schemas.states import STATE_KEYS, StateBatch, StateSpec
from store.denylist import candidates
from store.events import EVENTS_TABLE, REJECTS_TABLE
from store.frames import to_polars
from store.home import Home
from store.models import Models
from store.needles import Needles
from store.packing import PRECISIONS, bundle_spec, pack
from store.tables import Tables

STATES, EMBEDDINGS = "states-", "embeddings-"
#: Keys of one look-up.
LOOKUP = 500_000

Keys = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Subjects:
    """Users who go, and single events that go.

    Args:
        home: the home.
        users: ids of users.
        events: ``(user_id, event_id)`` of events of users who stay.
    """

    home: Home
    users: Sequence[str]
    events: Sequence[tuple[str, str]]

    @property
    def tables(self) -> Tables:
        """The home's tables."""
        return self.home.tables

    @cached_property
    def hashes(self) -> npt.NDArray[np.int64]:
        """Key and check of everybody whose states change, ``[n, 2]``: users, then users of events."""
        everybody = dict.fromkeys([*self.users, *(user for user, _ in self.events)])
        return np.array([user_hash(user) for user in everybody], np.int64).reshape(-1, 2)

    @cached_property
    def event_keys(self) -> Keys:
        """Keys of the single events, sorted."""
        frame = pl.DataFrame(list(self.events), schema={"user_id": pl.String, "event_id": pl.String}, orient="row")
        found: Keys = frame.select(keys.event_key(pl.col("user_id"), pl.col("event_id"))).to_series().unique().sort().to_numpy()
        return found

    def events_filter(self) -> Expression:
        """Rows of the event log that go: every revision, counted or not."""
        return self._users_filter(list(self.users)) | _in("event_key", self.event_keys) & _in("user_id", [u for u, _ in self.events])

    def states_filter(self) -> Expression:
        """Rows of states that go, in every version: of the users, and of the events' users."""
        return self._users_filter([*self.users, *(user for user, _ in self.events)])

    @staticmethod
    def _users_filter(users: list[str]) -> Expression:
        return _in("user_key", [user_hash(user)[0] for user in dict.fromkeys(users)]) & _in("user_id", users)

    @cached_property
    def rows(self) -> pl.DataFrame:
        """Rows of the event log that go: ``user_id, event_id, event_key, text, target, text_key, target_key``."""
        columns = ["user_id", "event_id", "event_key", "text", "target", "text_key", "target_key"]
        return to_polars(self.tables.read(EVENTS_TABLE, EVENTS, columns, filter=self.events_filter()))

    @cached_property
    def texts(self) -> pl.DataFrame:
        """``key, text`` of the texts and targets that only rows which go refer to."""
        both = [self.rows.select(key=key, text=text) for text, key in (("text", "text_key"), ("target", "target_key"))]
        mine = pl.concat(both).drop_nulls().unique("key")
        orphans = pl.Series(self.orphans(mine["key"].sort().to_numpy(), ~self.events_filter()), dtype=pl.Int64)
        return mine.filter(pl.col("key").is_in(orphans.implode()))

    def orphans(self, candidates: Keys, filter: Expression | None = None) -> Keys:
        """Those of the sorted text keys that no event (that passes ``filter``) refers to."""
        free = np.ones(len(candidates), bool)
        for start in range(0, len(candidates), LOOKUP):
            part = candidates[start : start + LOOKUP]
            refers = _in("text_key", part) | _in("target_key", part)
            for batch in self.tables.scan(EVENTS_TABLE, ["text_key", "target_key"], filter=refers if filter is None else refers & filter):
                for name in ("text_key", "target_key"):
                    found = batch.column(name).drop_null().to_numpy()
                    place = np.searchsorted(part, found)
                    hit = (place < len(part)) & (part[np.minimum(place, len(part) - 1)] == found)
                    free[start + place[hit]] = False
        return candidates[free]

    def rejects(self) -> Keys:
        """Keys of the rejects whose raw row names a user who goes, or an event that goes with its user."""
        found: list[int] = []
        pairs = set(self.events)
        users, owners = set(self.users), {user for user, _ in pairs}
        spoken = [form for user in {*users, *owners} for form in spellings(user)]
        for batch in self.tables.scan(REJECTS_TABLE, ["reject_key", "raw"]) if spoken else ():
            rows = to_polars(pa.Table.from_batches([batch])).drop_nulls()
            for key, raw in rows.filter(pl.col("raw").str.contains_any(spoken)).iter_rows():
                words = set(candidates(raw))
                if words & users or any(owner in words and event in words for owner, event in pairs if owner in words):
                    found.append(key)
        return np.array(found, np.int64)

    def held(self, name: str, filter: Expression) -> int:
        """How many rows of a table pass."""
        dataset = self.tables.open(name)
        return int(dataset.count_rows(filter=filter)) if dataset is not None else 0

    def names(self, prefix: str) -> list[str]:
        """Tables whose name begins so."""
        return [name for name in self.tables.names() if name.startswith(prefix)]

    def needles(self, instead: Iterable[pa.Table]) -> Needles:
        """All that must be nowhere once they are gone.

        Args:
            instead: states that take the place of some; what they share with those is no sign of them.
        """
        texts = self.texts
        vectors: set[bytes] = set()
        for name in self.names(EMBEDDINGS):
            for part in _parts(texts["key"].to_numpy()):
                for batch in self.tables.scan(name, ["vector"], filter=_in("key", part)):
                    vectors |= _vectors(batch.column("vector"))
        for name, rows in self._states():
            vectors |= _all_vectors(rows) | self._bundled(name, rows)
        for rows in instead:
            vectors -= _all_vectors(rows)
        ids = {form.encode() for user in self.users for form in spellings(user)}
        numbers = [self.rows["event_key"], texts["key"], *([pl.Series(self.hashes[: len(set(self.users))].ravel())] if self.users else [])]
        return Needles(
            ids=frozenset(ids),
            texts=frozenset(text.encode() for text in texts["text"]),
            vectors=frozenset(v for v in vectors if len(set(v)) > 4),
            keys=np.concatenate([n.cast(pl.Int64).to_numpy() for n in numbers]),
            owners=self.hashes[len(self.users) :, 0],
        )

    def _states(self) -> Iterator[tuple[str, pa.Table]]:
        for name in self.names(STATES):
            dataset = self.tables.open(name)
            if dataset is not None:
                yield name, dataset.to_table(filter=self.states_filter())

    def _bundled(self, name: str, rows: pa.Table) -> set[bytes]:
        """The users' vectors as bundles hold them."""
        models = Models(self.home)
        for model in self.home.objects.names("models"):
            if model.startswith(name.removeprefix(STATES)) and rows.num_rows:
                spec = models.spec(model)
                states = StateBatch.from_arrow(rows.drop_columns(STATE_KEYS.names), spec)
                return {vector for precision in PRECISIONS for vector in _packed_vectors(states, bundle_spec(spec, precision))}
        return set()


def spellings(user: str) -> set[str]:
    """An id as text holds it: plain, and as JSON strings write it."""
    return {user, json.dumps(user)[1:-1], json.dumps(user, ensure_ascii=False)[1:-1]}


def _in(column: str, values: Sequence[str] | Sequence[int] | Keys) -> Expression:
    kind = (EVENTS if column in EVENTS.names else pa.schema([pa.field(column, pa.int64())])).field(column).type
    return pc.field(column).isin(pa.array(list(dict.fromkeys(values)) if isinstance(values, list) else values, kind))


def _parts(keys: Keys) -> Iterator[Keys]:
    for start in range(0, len(keys), LOOKUP):
        yield keys[start : start + LOOKUP]


def _packed_vectors(states: StateBatch, packed: StateSpec) -> Iterator[bytes]:
    """The bytes of each vector of each user's record in a bundle."""
    columns = pack(states, packed).columns
    for column in packed.columns:
        if column.per == "user" and column.shape:
            yield from (row.tobytes() for row in columns[column.name])


def _vectors(column: pa.FixedSizeListArray) -> set[bytes]:
    """Each row's bytes."""
    if not len(column):
        return set()
    flat = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1))
    return {row.tobytes() for row in flat}


def _all_vectors(table: pa.Table) -> set[bytes]:
    found: set[bytes] = set()
    for field in table.schema:
        if pa.types.is_fixed_size_list(field.type) and pa.types.is_floating(field.type.value_type):
            found |= _vectors(table.column(field.name).combine_chunks())
    return found


def rejects_filter(found: Keys) -> Expression:
    """Rejects of these keys."""
    return pc.field("reject_key").isin(pa.array(found, REJECTS.field("reject_key").type))


def embeddings_filter(found: Keys) -> Expression:
    """Vectors of these texts."""
    return pc.field("key").isin(pa.array(found, pa.int64()))
