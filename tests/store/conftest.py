"""Versions and states written by hand, for what reads them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.keys import user_key
from schemas.records import VersionRecord
from schemas.states import STATE_KEYS, Column, StateBatch, StateSpec
from store.home import Home, provenance
from store.models import Models
from store.states import States

#: A vector and something beside it.
SPEC = StateSpec((Column(name="mean", dtype="float32", shape=(4,)), Column(name="mark", dtype="int64")), 1)
AGGREGATOR = "ab" * 32


@pytest.fixture
def version_of() -> Callable[..., VersionRecord]:
    """Writes a version's record, with nothing behind it; fields by name."""

    def make(home: Home, **given: Any) -> VersionRecord:
        number = home.versions.last() + 1
        zero = dict.fromkeys(("users", "users_changed", "events", "events_new", "texts_encoded", "cache_hits", "last_ingest"), 0)
        more = {"parent": None, "runs": (1,), "as_of": datetime.now(UTC), "seconds": 0.0, "trained": True, "personalizer": "tide"}
        fields = {**provenance(), **zero, **more, "number": number, "aggregator": AGGREGATOR, "encoder": "e", **given}
        record = VersionRecord.model_validate(fields)
        assert home.versions.append(number, record)
        return record

    return make


Vectors = Mapping[str, Sequence[float] | None]


@pytest.fixture
def wrote(version_of: Callable[..., VersionRecord]) -> Callable[..., VersionRecord]:
    """Writes users' vectors as a run and a version of it: ``wrote(home, run, {user: vector}, parent)``; None is a user who is gone."""

    def make(home: Home, run: int, vectors: Vectors, parent: VersionRecord | None = None, aggregator: str = AGGREGATOR) -> VersionRecord:
        Models(home).save(aggregator, {"aggregator.json": _json({"spec": SPEC.to_json(), "trained": True})})
        states = States(home, aggregator, SPEC)
        users = sorted(vectors, key=user_key)
        given = [vectors[user] for user in users]
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        keys = pa.table(
            {
                "user_id": users,
                "user_key": [user_key(user) for user in users],
                "run": [run] * len(users),
                "event_count": [0 if vector is None else run for vector in given],
                "first_ts": [moment] * len(users),
                "last_ts": [moment] * len(users),
            },
            schema=STATE_KEYS,
        )
        mean = np.array([vector or [0.0] * 4 for vector in given], np.float32).reshape(-1, 4)
        batch = StateBatch({"mean": mean, "mark": np.full(len(users), run)}, np.zeros(len(users) + 1, np.int64)).to_arrow(SPEC)
        for field in batch.schema:
            keys = keys.append_column(field, batch.column(field.name))
        states.commit(run, states.stage(keys, states.mark()))
        runs = (*(parent.runs if parent else ()), run)
        users_now = states.read(runs, ["user_id"]).num_rows
        return version_of(home, aggregator=aggregator, runs=runs, parent=parent.number if parent else None, users=users_now)

    return make


def _json(data: Any) -> bytes:
    import json

    return json.dumps(data).encode()
