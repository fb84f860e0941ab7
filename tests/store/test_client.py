"""The client answers from a bundle's own files, tells users apart, and refuses damage."""

import json
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from schemas.errors import CorruptError, InputError, NotFoundError
from schemas.keys import user_hash
from schemas.states import Column, StateBatch, StateSpec
from store.bundle import seal
from store.client import Bundle

SPEC = StateSpec(
    (
        Column(name="mark", dtype="float32", shape=(2,), empty=-1),
        Column(name="item", dtype="float32", shape=(2,), per="item"),
    ),
    4,
)
USERS = [f"u{i}" for i in range(20)] + ["x' OR 1=1", "日本", ""]
AS_OF, UNTIL = 1_000, 2_000
DEFAULT = [[-1.0, -1.0]]


def graph(static: bool) -> bytes:
    """mark + the sum of the items (+ query), as a prefix of one vector of two numbers."""
    inputs = [
        *([] if static else [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["n", 2])]),
        helper.make_tensor_value_info("now", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("mark", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("item", TensorProto.FLOAT, ["n", "items", 2]),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["item", "axis"], ["items_sum"], keepdims=0),
        helper.make_node("Add", ["mark", "items_sum"], ["state"]),
        helper.make_node("Identity" if static else "Add", ["state"] if static else ["state", "query"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["prefix"]),
    ]
    output = [helper.make_tensor_value_info("prefix", TensorProto.FLOAT, ["n", 1, 2])]
    axis = [helper.make_tensor("axis", TensorProto.INT64, [1], [1])]
    model = helper.make_model(
        helper.make_graph(nodes, "head", inputs, output, axis), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A bundle of two files of states, the second user range empty in the middle."""
    path = tmp_path / "bundles" / "v1"
    (path / "states").mkdir(parents=True)
    files = []
    order = sorted(USERS, key=user_hash)
    edges = [-(2**63), user_hash(order[9])[0], user_hash(order[9])[0] + 1, 2**63]
    for number, (low, high) in enumerate(pairwise(edges)):
        users = [user for user in order if low <= user_hash(user)[0] < high]
        marks = np.array([[USERS.index(u), 0] for u in users], np.float32).reshape(-1, 2)
        lengths = [USERS.index(u) % 3 for u in users]
        items = np.ones((sum(lengths), 2), np.float32)
        body = StateBatch({"mark": marks, "item": items}, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)).to_arrow(SPEC)
        hashes = np.array([user_hash(u) for u in users], np.int64).reshape(-1, 2)
        table = pa.table({"key": hashes[:, 0], "check": hashes[:, 1], **{n: body.column(n) for n in body.schema.names}})
        name = f"states/{number}.arrow"
        with pa.OSFile(str(path / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([c.combine_chunks() for c in table.columns], schema=table.schema))
        files.append({"name": name, "users": len(users), "low": low, "high": high - 1})
    assert [f["users"] for f in files] == [9, 1, 13]
    for name, static in (("head.onnx", False), ("static_head.onnx", True)):
        (path / name).write_bytes(graph(static))
    (path / "query_encoder.onnx").write_bytes(b"not needed here")
    (path / "tokenizer.json").write_text("{}")
    first = USERS.index(order[0])
    golden = [[[first + first % 3, first % 3]]]
    (path / "golden.json").write_text(json.dumps({"cases": [{"file": 0, "row": 0, "query": None, "now": AS_OF, "prefix": golden[0]}]}))
    manifest = {
        "version": 1,
        "as_of": AS_OF,
        "valid_until": UNTIL,
        "users": len(USERS),
        "prefix": {"length": 1, "dim": 2},
        "states": {"spec": SPEC.to_json(), "files": files},
    }
    seal(path, manifest)
    return path


def answer(user: str, query: float = 0) -> list[list[float]]:
    number = USERS.index(user)
    return [[number + number % 3 + query, number % 3 + query]]


def test_each_user_gets_their_own(directory: Path) -> None:
    bundle = Bundle.open(directory)
    assert (len(bundle), bundle.length, bundle.dim) == (len(USERS), 1, 2)
    asked = [*reversed(USERS), "nobody", "u3", "U3", "u3 ", "nobody"]
    found = bundle.prefix(asked, query_embeddings=np.full((len(asked), 2), 0.5, np.float32), now=UNTIL)
    assert found.status == ["known"] * len(USERS) + ["unknown", "known", "unknown", "unknown", "unknown"]
    for user, prefix in zip(asked, found.prefix.tolist(), strict=True):
        assert prefix == (answer(user, 0.5) if user in USERS else [[-0.5, -0.5]])


def test_static_prefixes_do_not_depend_on_company_or_time(directory: Path) -> None:
    bundle = Bundle.open(directory)
    every = bundle.static_prefix(USERS, now=AS_OF)
    for user, prefix in zip(USERS, every.prefix, strict=True):
        alone = bundle.static_prefix([user], now=UNTIL + 1)
        assert alone.prefix[0].tobytes() == prefix.tobytes()
        assert prefix.tolist() == answer(user)


def test_expired_and_unknown_are_told_apart(directory: Path) -> None:
    bundle = Bundle.open(directory)
    late = bundle.static_prefix(["u1", "nobody"], now=UNTIL + 1)
    assert late.status == ["expired", "unknown"]
    assert late.prefix.tolist() == [answer("u1"), DEFAULT]
    assert bundle.static_prefix(["u1"]).status == ["expired"]
    assert bundle.static_prefix(["u1"], now=UNTIL).status == ["known"]


def test_nobody_asks(directory: Path) -> None:
    found = Bundle.open(directory).static_prefix([], now=AS_OF)
    assert found.prefix.shape == (0, 1, 2)
    assert found.status == []


def test_wrong_requests(directory: Path) -> None:
    bundle = Bundle.open(directory)
    with pytest.raises(InputError, match="2 users, 1 queries"):
        bundle.prefix(["u1", "u2"], query_embeddings=np.zeros((1, 2), np.float32))
    with pytest.raises(InputError, match="one of the two"):
        bundle.prefix(["u1"])


def test_current_names_the_bundle(directory: Path) -> None:
    shelf = directory.parent
    with pytest.raises(NotFoundError, match="tapstate bundle"):
        Bundle.open(shelf)
    (shelf / "CURRENT").write_text("v1\n")
    assert Bundle.open(shelf).path == directory
    (shelf / "CURRENT").write_text("v2")
    with pytest.raises(NotFoundError):
        Bundle.open(shelf)


def test_verify(directory: Path) -> None:
    Bundle.open(directory).verify()


@pytest.mark.parametrize("name", ["golden.json", "tokenizer.json", "head.onnx", "static_head.onnx"])
def test_damaged_small_files_are_refused_at_open(directory: Path, name: str) -> None:
    data = bytearray((directory / name).read_bytes())
    data[-1] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(CorruptError, match=name):
        Bundle.open(directory)
    (directory / name).unlink()
    with pytest.raises(CorruptError, match=name):
        Bundle.open(directory)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_damaged_states_are_found_by_verify(directory: Path, damage: str) -> None:
    path = directory / "states/2.arrow"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "cut": data[:-100], "grow": data + b"x", "remove": b""}[damage])
    with pytest.raises(CorruptError, match=r"2\.arrow"):
        Bundle.open(directory).verify()
    if damage in ("cut", "remove"):
        with pytest.raises(CorruptError, match=r"2\.arrow"):
            Bundle.open(directory).static_prefix(USERS)


def test_a_wrong_golden_answer_is_found(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    golden = json.loads((directory / "golden.json").read_text())
    golden["cases"][0]["prefix"][0][0] += 1
    (directory / "golden.json").write_text(json.dumps(golden))
    (directory / "manifest.json").unlink()
    seal(directory, {k: v for k, v in manifest.items() if k not in ("files", "bundle_id")})
    with pytest.raises(CorruptError, match="golden"):
        Bundle.open(directory).verify()


@pytest.mark.parametrize("text", ["{", '{"format": 99}', "[]", '{"format": 1}'])
def test_a_manifest_that_is_none(directory: Path, text: str) -> None:
    (directory / "manifest.json").write_text(text)
    with pytest.raises(CorruptError):
        Bundle.open(directory)


def test_the_client_needs_little(directory: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    code = f"""
import sys
from store.client import Bundle
bundle = Bundle.open({str(directory)!r})
bundle.verify()
print(bundle.static_prefix(["u1"], now=0).status[0], *sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    out, err = spawn("-c", code).communicate()
    status, *loaded = out.split()
    assert status == "known", err
    heavy = {"torch", "lance", "lancedb", "polars", "pydantic", "prefect", "apache_beam", "obstore", "transformers", "pandas"}
    assert not heavy & set(loaded)
    assert {"onnxruntime", "pyarrow", "numpy", "tokenizers"} <= set(loaded)
