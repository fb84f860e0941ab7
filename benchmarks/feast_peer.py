"""Feast's side of ``benchmarks.lookup``, run by the Python of Feast's own environment: rows and requests come as files.

``python feast_peer.py DIRECTORY sqlite|redis PORT``; prints microseconds as JSON. It imports nothing of ours: another environment.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Bytes

place, kind, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
repo = place / kind
repo.mkdir()
online = {"sqlite": f"type: sqlite\n  path: {repo}/online.db", "redis": f"type: redis\n  connection_string: 127.0.0.1:{port}"}[kind]
settings = (
    f"project: lookup\nprovider: local\nregistry: {repo}/registry.db\nonline_store:\n  {online}\nentity_key_serialization_version: 3\n"
)
(repo / "feature_store.yaml").write_text(settings)
store = FeatureStore(repo_path=str(repo))
user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
source = FileSource(path=str(place / "none.parquet"), timestamp_field="at")
view = FeatureView(
    name="states", entities=[user], ttl=timedelta(days=1000), schema=[Field(name="state", dtype=Bytes)], source=source, online=True
)
now = datetime.now(UTC)
# The offline source is never read: rows are pushed straight into the online store.
parquet.write_table(pa.table({"user": ["x"], "state": [b"x"], "at": pa.array([now], pa.timestamp("us", "UTC"))}), place / "none.parquet")
store.apply([user, view])
reader = pa.ipc.open_file(pa.memory_map(str(place / "rows.arrow")))
for number in range(reader.num_record_batches):
    frame = reader.get_batch(number).to_pandas()
    frame["at"] = now
    store.write_to_online_store("states", frame)

requests = json.loads((place / "requests.json").read_text())
figures = {}
for name, asked in (("one", [[u] for u in requests["singles"]]), ("batch", requests["batches"])):
    took = []
    for users in [*asked[:5], *asked]:
        began = time.perf_counter_ns()
        found = store.get_online_features(["states:state"], [{"user": u} for u in users]).to_dict()
        took.append(time.perf_counter_ns() - began)
        assert all(found["state"]), "a user is missing"
    p50, p99 = np.percentile(took[5:], [50, 99]) / 1e3
    figures[name] = {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}
print(json.dumps(figures))
