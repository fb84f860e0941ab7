"""A second reader, made from docs/bundle.md alone: nothing of ours is imported by it. It gives the golden answers, and the client's."""

import hashlib
import inspect
import json
import struct
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from small_bundles import AS_OF, USERS, make_bundle


class Reader:
    def __init__(self, path):
        self.path, self.manifest = Path(path), json.loads((Path(path) / "manifest.json").read_text())
        assert self.manifest["format"] == 2
        for name, file in self.manifest["files"].items():
            data, step = (self.path / name).read_bytes(), self.manifest["block_bytes"]
            blocks = [hashlib.sha256(data[i : i + step]).hexdigest() for i in range(0, len(data), step)]
            assert (len(data), blocks) == (file["bytes"], file["sha256"])
        self.base = Reader(self.path.parent / self.manifest["base"]["name"]) if self.manifest["base"] else None
        self.columns = self.manifest["states"]["spec"]["columns"]
        self.index, self.gone = self.table("index.arrow"), self.table("gone.arrow")
        self.parts = [self.table(file["name"]) for file in self.manifest["states"]["files"]]

    def table(self, name):
        return pa.ipc.open_file(pa.memory_map(str(self.path / name))).get_batch(0)

    def graph(self, name):
        return self.base.graph(name) if name not in self.manifest["files"] else onnxruntime.InferenceSession(self.path / name)

    def layout(self, per):
        return np.dtype([(c["name"], np.dtype(c["dtype"]).newbyteorder("<"), tuple(c["shape"])) for c in self.columns if c["per"] == per])

    def find(self, user, based=False):
        pair = struct.unpack(">qq", hashlib.sha256(user.encode()).digest()[:16])
        keys, checks = (self.index.column(n).to_numpy() for n in ("key", "check"))
        row = int(np.searchsorted(keys, pair[0]))
        while row < len(keys) and keys[row] == pair[0]:
            if checks[row] == pair[1]:
                return self.record(row), "known"
            row += 1
        tag = hashlib.sha256(bytes.fromhex(self.manifest["erased_salt"]) + user.encode()).digest()[:16]
        if not based and tag in self.table("erased.arrow").column("tag").to_pylist():
            return self.record(None), "erased"
        gone = any((g["key"], g["check"]) == pair for g in self.gone.to_pylist())
        return self.base.find(user, True) if self.base and not gone else (self.record(None), "unknown")

    def record(self, row):
        if row is None:
            user = np.zeros(1, self.layout("user"))
            for column in (c for c in self.columns if c["per"] == "user"):
                user[column["name"]] = float(column["empty"])
            return user, np.zeros(0, self.layout("item"))
        for part in self.parts:
            if row < part.num_rows:
                user, items = (part.column(n)[row].as_py() for n in ("user", "items"))
                return np.frombuffer(user, self.layout("user")), np.frombuffer(items, self.layout("item"))
            row -= part.num_rows
        raise IndexError(row)

    def prefix(self, record, now, query=None, task=None):
        feeds = {"now": np.array([now])} | ({} if query is None else {"query": np.array([query], np.float32)})
        feeds |= {"task": np.array([self.manifest["tasks"].index(task) if task else -1])} if "tasks" in self.manifest else {}
        for column in (c for c in self.columns if c["head"]):
            table = record[0] if column["per"] == "user" else record[1]
            values = table[column["name"]] if len(table) else np.zeros((1, *column["shape"]), column["dtype"])
            if column.get("scale"):
                values = values * (table[column["scale"]] if len(table) else np.zeros(values.shape[:-1], np.float32))[..., None]
            values = values.astype(np.float32) if values.dtype.kind == "f" else values
            feeds[column["name"]] = np.ascontiguousarray(values if column["per"] == "user" else values[None])
        return self.graph("static_head.onnx" if query is None else "head.onnx").run(["prefix"], feeds)[0][0]


def golden(reader: Reader) -> int:
    cases = json.loads((reader.path / "golden.json").read_text())["cases"]
    for case in cases:
        asked = (case["now"], case["query_embedding"], case.get("task"))
        found, wanted = reader.prefix(reader.record(case["row"]), *asked), np.array(case["prefix"])
        assert np.abs(found - wanted).max() <= 1e-3 * np.sqrt((wanted**2).mean())
    return len(cases)


def test_it_is_short_and_its_own() -> None:
    source = inspect.getsource(Reader)
    assert len(source.splitlines()) <= 60
    assert not any(name in source for name in ("store", "schemas", "Bundle"))


def test_a_chain_of_small_bundles(tmp_path: Path) -> None:
    from store.client import Bundle

    full = make_bundle(tmp_path / "v1", USERS)
    make_bundle(tmp_path / "v2", ["u3", "u99"], shift=50, base=full, gone=["u4"], erased=["u5"], total=22)
    reader, client = Reader(tmp_path / "v2"), Bundle.open(tmp_path / "v2")
    assert golden(reader) == 4
    users = [*USERS, "u99", "nobody"]
    wanted = client.static_prefix(users, now=AS_OF)
    for user, prefix, status in zip(users, wanted.prefix, wanted.status, strict=True):
        record, told = reader.find(user)
        assert told == status
        np.testing.assert_array_equal(reader.prefix(record, AS_OF), prefix)
    assert wanted.status.count("known") == 22


def test_tasks(tmp_path: Path) -> None:
    make_bundle(tmp_path / "v1", USERS, tasks=["headline", "rating"])
    assert golden(Reader(tmp_path / "v1")) == 8


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_real_head(tmp_path: Path, precision: str) -> None:
    from benchmarks.synthetic_bundle import make
    from store.client import Bundle

    names = make(tmp_path / "v1", 50, precision=precision, llm_dim=8)  # type: ignore[arg-type]
    reader, client = Reader(tmp_path / "v1"), Bundle.open(tmp_path / "v1")
    assert golden(reader) == 2
    query = np.linspace(-2, 2, client.query_dim, dtype=np.float32)
    wanted = client.prefix([*names[:5], "nobody"], query_embeddings=np.stack([query] * 6), now=1_760_000_999).prefix
    for user, prefix in zip([*names[:5], "nobody"], wanted, strict=True):
        found = reader.prefix(reader.find(user)[0], 1_760_000_999, query)
        np.testing.assert_allclose(found, prefix, rtol=0, atol=1e-5)
