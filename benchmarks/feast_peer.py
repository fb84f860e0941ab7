"""Feast's side of ``benchmarks.lookup``, run by the Python of Feast's own environment: rows and requests come as files.

``python feast_peer.py DIRECTORY sqlite|redis features|bytes PORT``; prints microseconds as JSON. ``features``: each column of a state is a
feature, vectors as arrays of float32, as Feast documents embeddings; ``bytes``: the state is one opaque feature, which is the least that
Feast can be asked for. It imports nothing of ours: another environment.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bytes, Float32, Int64

place, kind, form, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
repo = place / f"{kind}-{form}"
repo.mkdir()
online = {"sqlite": f"type: sqlite\n  path: {repo}/online.db", "redis": f"type: redis\n  connection_string: 127.0.0.1:{port}"}[kind]
settings = (
    f"project: lookup\nprovider: local\nregistry: {repo}/registry.db\nonline_store:\n  {online}\nentity_key_serialization_version: 3\n"
)
(repo / "feature_store.yaml").write_text(settings)
store = FeatureStore(repo_path=str(repo))
user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
source = FileSource(path=str(place / "none.parquet"), timestamp_field="at")
reader = pa.ipc.open_file(pa.memory_map(str(place / "rows.arrow")))
names = ["state"] if form == "bytes" else [name for name in reader.schema.names if name not in ("user", "state")]
TYPES = {pa.binary(): Bytes, pa.list_(pa.float32()): Array(Float32), pa.list_(pa.int64()): Array(Int64)}
schema = [Field(name=name, dtype=TYPES[reader.schema.field(name).type]) for name in names]
view = FeatureView(name="states", entities=[user], ttl=timedelta(days=1000), schema=schema, source=source, online=True)
now = datetime.now(UTC)
# The offline source is never read: rows are pushed straight into the online store.
stamp = pa.array([now], pa.timestamp("us", "UTC"))
parquet.write_table(
    pa.Table.from_batches([reader.get_batch(0).slice(0, 1)]).select(["user", *names]).append_column("at", stamp), place / "none.parquet"
)
store.apply([user, view])
for number in range(reader.num_record_batches):
    frame = reader.get_batch(number).select(["user", *names]).to_pandas()
    frame["at"] = now
    store.write_to_online_store("states", frame)

spec = json.loads((place / "spec.json").read_text())
whole = [np.dtype([(name, dtype, tuple(shape)) for name, dtype, shape in spec[per]]) for per in ("user", "item")]


def opaque(value: bytes) -> dict[str, np.ndarray]:
    """One state as arrays."""
    record, items = np.frombuffer(value, whole[0], 1), np.frombuffer(value, whole[1], offset=whole[0].itemsize)
    return {name: record[name] for name in whole[0].names or ()} | {name: items[name] for name in whole[1].names or ()}


def columns(found: dict[str, list[Any]], row: int) -> dict[str, np.ndarray]:
    """One state as arrays, of the shapes and types that a bundle gives."""
    arrays = {}
    for name, dtype, shape in spec["user"] + spec["item"]:
        value = found[name][row]
        flat = np.frombuffer(value, dtype) if isinstance(value, bytes) else np.array(value, dtype)
        arrays[name] = flat.reshape(-1, *shape)
    return arrays


requests = json.loads((place / "requests.json").read_text())
figures, asked_for = {}, [f"states:{name}" for name in names]


def get(users: list[str]) -> list[dict[str, np.ndarray]]:
    """States of the users."""
    found = store.get_online_features(asked_for, [{"user": u} for u in users]).to_dict()
    return [opaque(value) for value in found["state"]] if form == "bytes" else [columns(found, i) for i in range(len(users))]


given = [{name: value.tobytes().hex() for name, value in state.items()} for state in get(requests["batches"][0])]
(repo / "given.json").write_text(json.dumps(given))
for name, asked in (("one", [[u] for u in requests["singles"]]), ("batch", requests["batches"])):
    took = []
    for users in [*asked[:5], *asked]:
        began = time.perf_counter_ns()
        get(users)
        took.append(time.perf_counter_ns() - began)
    p50, p99 = np.percentile(took[5:], [50, 99]) / 1e3
    figures[name] = {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}
print(json.dumps(figures))
