"""State and query embedding to a prefix ``[8, 2048]``: onnxruntime beside torch, eager and compiled; and query text to prefix.

``python -m benchmarks.head --output json``. The candidates take turns, so that noise of the machine meets all of them.
"""

import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import psutil
import torch
import typer

from benchmarks.synthetic_bundle import AS_OF, LENGTH, LLM_DIM, QUERY_DIM, personalizer, states
from encoders.adapter import QueryAdapter
from encoders.export import export_head, export_query_encoder
from encoders.text import TextEncoder
from schemas.config import EncoderConfig
from store.packing import bundle_spec, pack

QUERY = "what should I cook tonight with the leeks and the half bottle of white wine that are left"


def run(
    rounds: Annotated[int, typer.Option(help="Turns of every candidate.")] = 30,
    calls: Annotated[int, typer.Option(help="Calls in one turn at batch 1; an eighth as many at batch 64.")] = 40,
    threads: Annotated[int, typer.Option(help="Threads of each candidate; 0: one a core.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    output: Annotated[str, typer.Option(help="json.")] = "json",
) -> None:
    """Print one JSON object."""
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    tide, head = personalizer(seed)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        export_head(head, tide.spec, QUERY_DIM, static=False), options, providers=["CPUExecutionProvider"]
    )
    compiled = torch.compile(head)
    spec = bundle_spec(tide.spec, "float16")
    figures: dict[int, dict[str, Any]] = {}
    for batch in (1, 64):
        rng = np.random.default_rng(seed)
        feeds = pack(states(batch, tide.spec, rng, 64), spec).head_inputs(spec)
        feeds |= {"now": np.full(batch, AS_OF, np.int64), "query": rng.standard_normal((batch, QUERY_DIM)).astype(np.float32)}
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        candidates: dict[str, Callable[[], Any]] = {
            "onnx_ms": partial(_onnx, session, feeds),
            "torch_ms": partial(_torch, head, tensors),
            "compiled_ms": partial(_torch, compiled, tensors),
        }
        wanted = candidates["torch_ms"]().numpy()
        for name, answer in candidates.items():
            gap = float(np.abs(np.asarray(answer()) - wanted).max() / np.sqrt(np.mean(wanted**2)))
            if gap > 1e-4:
                raise SystemExit(f"{name} is off by {gap:.1e}: its figures would mean nothing")
        figures[batch] = _take_turns(candidates, rounds, calls if batch == 1 else max(1, calls // 8), seed)
    result = {
        **figures[1],
        "batch64": figures[64],
        "end_to_end": _end_to_end(session, spec, tide.spec, threads, rounds, seed),
        "prefix": [LENGTH, LLM_DIM],
        "threads": threads,
        "load_average": psutil.getloadavg()[0],
        "seed": seed,
    }
    print(json.dumps(result))


def _onnx(session: Any, feeds: dict[str, Any]) -> Any:
    return session.run(["prefix"], feeds)[0]


def _torch(module: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return module(tensors["query"], tensors["now"], tensors)


def _take_turns(candidates: dict[str, Callable[[], Any]], rounds: int, calls: int, seed: int) -> dict[str, dict[str, float]]:
    """Milliseconds a call, over all turns."""
    took: dict[str, list[int]] = {name: [] for name in candidates}
    order = random.Random(seed)
    for _ in range(rounds):
        for name in order.sample(list(candidates), len(candidates)):
            candidates[name]()  # the first call of a turn brings its weights back into the cache
            for _ in range(calls):
                began = time.perf_counter_ns()
                candidates[name]()
                took[name].append(time.perf_counter_ns() - began)
    return {name: _percentiles(times) for name, times in took.items()}


def _percentiles(times: list[int]) -> dict[str, float]:
    least, p50, p99 = np.percentile(times, [0, 50, 99]) / 1e6
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "least": round(float(least), 3)}


def _end_to_end(session: Any, spec: Any, stored: Any, threads: int, rounds: int, seed: int) -> dict[str, Any]:
    """Query text to prefix at batch 1, with the bundled text encoder: its share and the head's."""
    from tokenizers import Tokenizer

    encoder = TextEncoder(EncoderConfig())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tokenizer.json"
        path.write_bytes(encoder.tokenizer_json())
        tokenizer = Tokenizer.from_file(str(path))
    graph = onnxruntime.InferenceSession(
        export_query_encoder(encoder, QueryAdapter(encoder.dim)), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(seed)
    feeds = pack(states(1, stored, rng, 64), spec).head_inputs(spec) | {"now": np.array([AS_OF], np.int64)}
    shares: dict[str, list[int]] = {"total_ms": [], "tokens_ms": [], "encoder_ms": [], "head_ms": []}
    for _ in range(rounds * 5):
        marks = [time.perf_counter_ns()]
        encoded = tokenizer.encode(QUERY)
        marks.append(time.perf_counter_ns())
        inputs = {"input_ids": np.array([encoded.ids], np.int64), "attention_mask": np.array([encoded.attention_mask], np.int64)}
        query = graph.run(["query"], inputs)[0]
        marks.append(time.perf_counter_ns())
        session.run(["prefix"], {**feeds, "query": query})
        marks.append(time.perf_counter_ns())
        for name, took in zip(shares, [marks[-1] - marks[0], *np.diff(marks).tolist()], strict=True):
            shares[name].append(took)
    return {**{name: _percentiles(times) for name, times in shares.items()}, "tokens": len(encoded.ids)}


if __name__ == "__main__":
    typer.run(run)
