"""Hot swap under full load: four processes ask without pause while another bundle is swapped in every second.

``python -m benchmarks.hot_swap --seconds S --output json``. Every user of version v has the number v all over their state,
and so has the prefix: an answer from two versions at once would hold two numbers.
"""

import json
import multiprocessing as mp
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import psutil
import typer
from onnx import TensorProto, helper

from schemas.states import Column, StateBatch, StateSpec
from store.bundle import seal, user_hashes, write_gone, write_layer
from store.live import Live

SPEC = StateSpec(
    (Column(name="mark", dtype="float32", shape=(64,), empty=-1), Column(name="item", dtype="float32", shape=(64,), per="item")), 16
)
VERSIONS, BATCH = 4, 32


def run(
    seconds: Annotated[float, typer.Option(help="How long.")] = 300.0,
    users: Annotated[int, typer.Option(help="Users.")] = 20_000,
    processes: Annotated[int, typer.Option(help="Processes that ask, two threads each.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object: ``answers, errors, mixed, swaps`` and what each process saw."""
    with tempfile.TemporaryDirectory() as directory:
        shelf = Path(directory)
        for version in range(1, VERSIONS + 1):
            make(shelf / f"v{version}", users, version)
        point(shelf, 1)
        context = mp.get_context("spawn")
        stop, ready, told = context.Event(), context.Semaphore(0), context.Queue()
        workers = [context.Process(target=ask, args=(str(shelf), users, seed + i, stop, ready, told)) for i in range(processes)]
        for worker in workers:
            worker.start()
        for _ in workers:
            if not ready.acquire(timeout=120):
                sys.exit("a process did not come up")
        swaps, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            time.sleep(1)
            swaps += 1
            point(shelf, swaps % VERSIONS + 1)
        stop.set()
        reports = [told.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join(30)
    result = {
        "seconds": seconds,
        "swaps": swaps,
        "answers": sum(r["answers"] for r in reports),
        "errors": sum(r["errors"] for r in reports),
        "mixed": sum(r["mixed"] for r in reports),
        "first_error": next((r["first_error"] for r in reports if r["first_error"]), None),
        "swapped_in": [r["swapped_in"] for r in reports],
        "versions_seen": [r["versions_seen"] for r in reports],
        "batch": BATCH,
        "processes": processes,
        "load_average": psutil.getloadavg()[0],
    }
    print(json.dumps(result))
    if result["errors"] or result["mixed"]:
        sys.exit(1)


def point(shelf: Path, version: int) -> None:
    """Swap ``CURRENT``, as a rename."""
    aside = shelf / ".current"
    aside.write_text(f"v{version}")
    os.replace(aside, shelf / "CURRENT")


def make(path: Path, users: int, version: int) -> None:
    """A bundle in which every number is ``version``, windows of one to sixteen items."""
    path.mkdir()
    hashes = user_hashes(f"user-{number}" for number in range(users))
    hashes = hashes[np.lexsort((hashes[:, 1], hashes[:, 0]))]
    offsets = np.concatenate([[0], np.cumsum(1 + np.arange(users) % 16)]).astype(np.int64)
    columns = {"mark": np.full((users, 64), version, np.float32), "item": np.full((int(offsets[-1]), 64), version, np.float32)}
    files = write_layer(path, iter([(hashes, StateBatch(columns, offsets))]), SPEC)
    write_gone(path, np.zeros((0, 2), np.int64), [])
    for name, query in (("head.onnx", True), ("static_head.onnx", False)):
        (path / name).write_bytes(_graph(query, version))
    (path / "query_encoder.onnx").write_bytes(_encoder())
    (path / "tokenizer.json").write_text('{"version":"1.0","model":{"type":"WordLevel","vocab":{"x":0},"unk_token":"x"}}')
    empty = np.concatenate([np.full(64, -1.0), np.zeros(64), np.full(64, version)]).tolist()
    cases = [{"row": None, "query": q, "query_embedding": e, "now": 0, "prefix": [empty]} for q, e in ((None, None), ("x", [0.0]))]
    (path / "golden.json").write_text(json.dumps({"cases": cases}))
    about: dict[str, Any] = {
        "version": version,
        "as_of": 0,
        "valid_until": 2**40,
        "users": users,
        "llm": {"model": "none", "kind": "causal", "fingerprint": "0" * 64},
        "prefix": {"length": 1, "dim": 192},
        "query_encoder": {"dim": 1},
        "states": {"precision": "float16", "spec": SPEC.to_json(), "files": files},
        "erased_salt": "0" * 64,
        "layers": 1,
        "base": None,
    }
    seal(path, about)


def _graph(query: bool, version: int) -> bytes:
    """``[mark; mean of the items that are there; the graph's own version]``: states and graph of two bundles would show."""
    inputs = [
        helper.make_tensor_value_info("now", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("mark", TensorProto.FLOAT, ["n", 64]),
        helper.make_tensor_value_info("item", TensorProto.FLOAT, ["n", "m", 64]),
        *([helper.make_tensor_value_info("query", TensorProto.FLOAT, ["n", 1])] if query else []),
    ]
    nodes = [
        helper.make_node("ReduceMax", ["item", "axis"], ["top"], keepdims=0),
        helper.make_node("Mul", ["mark", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "own"], ["stamp"]),
        helper.make_node("Concat", ["mark", "top", "stamp"], ["flat"], axis=1),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["prefix"]),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("own", TensorProto.FLOAT, [], [float(version)]),
    ]
    output = [helper.make_tensor_value_info("prefix", TensorProto.FLOAT, ["n", 1, 192])]
    return _serialized(nodes, inputs, output, constants)


def _encoder() -> bytes:
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("input_ids", "attention_mask")]
    nodes = [
        helper.make_node("Sub", ["input_ids", "input_ids"], ["none"]),
        helper.make_node("Mul", ["none", "attention_mask"], ["zero"]),
        helper.make_node("Cast", ["zero"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["float", "axis"], ["query"], keepdims=1),
    ]
    output = [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["n", 1])]
    return _serialized(nodes, inputs, output, [helper.make_tensor("axis", TensorProto.INT64, [1], [1])])


def _serialized(nodes: Any, inputs: Any, output: Any, constants: Any) -> bytes:
    graph = helper.make_graph(nodes, "graph", inputs, output, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def ask(shelf: str, users: int, seed: int, stop: Any, ready: Any, told: Any) -> None:
    """Ask until told to stop, from two threads; report what came."""
    import threading

    tally: Counter[str] = Counter()
    seen: Counter[int] = Counter()
    first: list[str] = []
    lock = threading.Lock()

    def thread(number: int) -> None:
        rng = random.Random(seed * 100 + number)
        while not stop.is_set():
            try:
                some = [f"user-{rng.randrange(users)}" for _ in range(rng.choice((1, BATCH)))]
                bundle = live.bundle
                answer = (
                    bundle.static_prefix(some) if number else bundle.prefix(some, query_embeddings=np.zeros((len(some), 1), np.float32))
                )
                found = np.unique(answer.prefix)
                right = len(found) == 1 and int(found[0]) == bundle.manifest["version"] and answer.bundle_id == bundle.bundle_id
                with lock:
                    tally["answers"] += 1
                    tally["mixed"] += not right
                    seen[int(found[0])] += 1
            except Exception as error:
                with lock:
                    tally["errors"] += 1
                    first.append(repr(error)[:300])

    with Live(shelf, every=0.1, threads=1) as live:
        ready.release()
        threads = [threading.Thread(target=thread, args=(number,)) for number in range(2)]
        swapped, last = 0, live.bundle.bundle_id
        for one in threads:
            one.start()
        while not stop.wait(0.02):
            if live.bundle.bundle_id != last:
                swapped, last = swapped + 1, live.bundle.bundle_id
        for one in threads:
            one.join()
        if live.error:
            first.append(str(live.error))
            tally["errors"] += 1
    told.put(
        {
            **{name: tally[name] for name in ("answers", "errors", "mixed")},
            "first_error": first[0] if first else None,
            "swapped_in": swapped,
            "versions_seen": dict(seen),
        }
    )


if __name__ == "__main__":
    typer.run(run)
