"""Small bundles whose answers can be told by hand: ``mark + the sum of the items (+ query)``, one vector of two numbers.

With tasks, that of task number i adds ``1000·(i + 1)``.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers

from schemas.keys import user_hash
from schemas.states import Column, StateBatch, StateSpec
from store.bundle import seal, user_hashes, write_gone, write_layer
from store.manifest import erased_tag

SPEC = StateSpec(
    (
        Column(name="mark", dtype="float32", shape=(2,), empty=-1),
        Column(name="item", dtype="float32", shape=(2,), per="item"),
    ),
    4,
)
USERS = [f"u{i}" for i in range(20)] + ["x' OR 1=1", "日本", ""]
AS_OF, UNTIL = 1_000, 2_000
SALT = "5a" * 32
DEFAULT = [[-1.0, -1.0]]


def graph(static: bool, tasks: bool = False) -> bytes:
    inputs = [
        *([] if static else [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["n", 2])]),
        helper.make_tensor_value_info("now", TensorProto.INT64, ["n"]),
        *([helper.make_tensor_value_info("task", TensorProto.INT64, ["n"])] if tasks else []),
        helper.make_tensor_value_info("mark", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("item", TensorProto.FLOAT, ["n", "items", 2]),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["item", "axis"], ["items_sum"], keepdims=0),
        helper.make_node("Add", ["mark", "items_sum"], ["state"]),
        helper.make_node("Identity" if static else "Add", ["state"] if static else ["state", "query"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["asked" if tasks else "prefix"]),
    ]
    constants = [helper.make_tensor("axis", TensorProto.INT64, [1], [1])]
    if tasks:
        constants += [helper.make_tensor(name, TensorProto.INT64, [], [value]) for name, value in (("one", 1), ("step", 1000))]
        constants.append(helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]))
        nodes += [
            helper.make_node("Add", ["task", "one"], ["number"]),
            helper.make_node("Mul", ["number", "step"], ["steps"]),
            helper.make_node("Cast", ["steps"], ["told"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["told", "axes"], ["instruction"]),
            helper.make_node("Add", ["asked", "instruction"], ["prefix"]),
        ]
    output = [helper.make_tensor_value_info("prefix", TensorProto.FLOAT, ["n", 1, 2])]
    return _model(nodes, inputs, output, constants)


def encoder() -> bytes:
    """The number of tokens, twice."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("input_ids", "attention_mask")]
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Sub", ["kept", "kept"], ["zero"]),
        helper.make_node("Add", ["zero", "attention_mask"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "axis"], ["sum"], keepdims=1),
        helper.make_node("Concat", ["sum", "sum"], ["query"], axis=1),
    ]
    output = [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["n", 2])]
    return _model(nodes, inputs, output, [helper.make_tensor("axis", TensorProto.INT64, [1], [1])])


def _model(nodes: Sequence[Any], inputs: Sequence[Any], output: Sequence[Any], constants: Sequence[Any]) -> bytes:
    made = helper.make_model(
        helper.make_graph(nodes, "graph", inputs, output, constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data


def tokenizer() -> str:
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.enable_padding()
    text: str = words.to_str()
    return text


def state(user: str, shift: float = 0) -> tuple[list[float], int]:
    """Mark and number of items of a user."""
    number = USERS.index(user) if user in USERS else int(user[1:])
    return [number + shift, 0], number % 3


def answer(user: str, query: float = 0, shift: float = 0, task: int = -1) -> list[list[float]]:
    (mark, _), items = state(user, shift)
    more = query + 1000 * (task + 1)
    return [[mark + items + more, items + more]]


def make_bundle(
    path: Path,
    users: Sequence[str],
    *,
    version: int = 1,
    shift: float = 0,
    files: int = 3,
    base: Mapping[str, Any] | None = None,
    gone: Sequence[str] = (),
    erased: Sequence[str] = (),
    total: int | None = None,
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """A sealed bundle of ``users``; with ``base``, the manifest of a sibling, a delta on it."""
    path.mkdir(parents=True)
    order = sorted(users, key=user_hash)
    # The middle file is empty: a reader must not stumble over that.
    cuts = [0, len(order) // 2, len(order) // 2, len(order)] if files == 3 else [len(order) * i // files for i in range(files + 1)]
    chunks = []
    for low, high in pairwise(cuts):
        some = [state(user, shift) for user in order[low:high]]
        lengths = [items for _, items in some]
        columns = {
            "mark": np.array([mark for mark, _ in some], np.float32).reshape(-1, 2),
            "item": np.ones((sum(lengths), 2), np.float32),
        }
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        chunks.append((user_hashes(order[low:high]), StateBatch(columns, offsets)))
    written = write_layer(path, iter(chunks), SPEC)
    write_gone(path, user_hashes([*gone, *erased]), [erased_tag(SALT, user) for user in erased])
    left = []
    if base is None:
        for name, static in (("head.onnx", False), ("static_head.onnx", True)):
            (path / name).write_bytes(graph(static, bool(tasks)))
        (path / "query_encoder.onnx").write_bytes(encoder())
        (path / "tokenizer.json").write_text(tokenizer())
    else:
        left = ["head.onnx", "static_head.onnx", "query_encoder.onnx", "tokenizer.json"]
    cases: list[dict[str, Any]] = []
    for row, user in [(None, ""), *([(0, order[0])] if order else [])]:
        plain = DEFAULT if row is None else answer(user, 0, shift)
        fused = [[x + 2 for x in plain[0]]]
        cases.append({"row": row, "query": None, "query_embedding": None, "now": AS_OF, "prefix": plain})
        cases.append({"row": row, "query": "two words", "query_embedding": [2.0, 2.0], "now": AS_OF, "prefix": fused})
    if tasks:
        last = [[x + 1000 * len(tasks) for x in case["prefix"][0]] for case in cases]
        asked = [{**case, "task": tasks[-1], "prefix": [wanted]} for case, wanted in zip(cases, last, strict=True)]
        cases = [*({**case, "task": None} for case in cases), *asked]
    (path / "golden.json").write_text(json.dumps({"cases": cases}))
    manifest = {
        "version": version,
        "as_of": AS_OF,
        "valid_until": UNTIL,
        "users": len(order) if total is None else total,
        "llm": {"model": "tiny", "kind": "causal", "fingerprint": "f" * 64},
        "prefix": {"length": 1, "dim": 2},
        "query_encoder": {"dim": 2},
        **({"tasks": list(tasks)} if tasks else {}),
        "states": {"precision": "float16", "spec": SPEC.to_json(), "files": written},
        "erased_salt": SALT,
        "layers": 1 if base is None else base["layers"] + 1,
        "base": None if base is None else {"name": base["name"], "bundle_id": base["bundle_id"], "files": left},
    }
    return {**seal(path, manifest), "name": path.name}


def reseal(path: Path, **changes: Any) -> None:
    """Hash a bundle's files again, as if its maker had meant them so."""
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").unlink()
    seal(path, {k: v for k, v in {**manifest, **changes}.items() if k not in ("files", "bundle_id", "format", "block_bytes")})
