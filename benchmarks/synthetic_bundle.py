"""A bundle of any number of made-up users behind a real head, for benchmarks of serving: no store, no training."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders.export import export_head
from encoders.head import TideHead
from encoders.tide import Tide
from schemas.config import TideConfig
from schemas.states import StateBatch, StateSpec
from store.bundle import FILE_USERS, Hashes, key_ranges, seal, user_hashes, write_gone, write_layer
from store.packing import Precision, bundle_spec, pack

LENGTH, LLM_DIM, QUERY_DIM = 8, 2048, 384
AS_OF = 1_760_000_000


def personalizer(seed: int, length: int = LENGTH, llm_dim: int = LLM_DIM) -> tuple[Tide, TideHead]:
    """tide of the default shape, its head's last layer random: a prefix that depends on all of the state."""
    torch.manual_seed(seed)
    config = TideConfig()
    tide = Tide(config, QUERY_DIM)
    head = TideHead(config, QUERY_DIM, llm_dim, torch.randn(length, llm_dim), 0.02, False)
    torch.nn.init.normal_(head.out.weight, std=0.3)
    head.bind(tide)
    head.eval().requires_grad_(False)
    return tide, head


def states(users: int, spec: StateSpec, rng: np.random.Generator, window: int) -> StateBatch:
    """Random states; windows hold 0 to ``window`` items, evenly."""
    lengths = rng.integers(0, window + 1, users)
    items = int(lengths.sum())
    columns: dict[str, Any] = {
        "slot_sum": rng.standard_normal((users, *spec.columns[0].shape), np.float32),
        "slot_mass": rng.standard_normal((users, *spec.columns[1].shape)),
        "t_ref": AS_OF - rng.integers(0, 10**7, users),
        "window_code": rng.integers(-127, 128, (items, *spec.columns[3].shape), np.int8),
        "window_scale": rng.uniform(0.001, 0.02, items).astype(np.float32),
        "window_time": AS_OF - rng.integers(0, 10**7, items),
    }
    return StateBatch(columns, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def make(
    directory: Path,
    users: int,
    *,
    seed: int = 0,
    window: int = 64,
    precision: Precision = "float16",
    version: int = 1,
    llm_dim: int = LLM_DIM,
) -> list[str]:
    """Write the bundle; returns the user ids, in the order of its index."""
    tide, head = personalizer(seed, llm_dim=llm_dim)
    packed = bundle_spec(tide.spec, precision)
    names = [f"user-{number}" for number in range(users)]
    hashes = user_hashes(names)
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    hashes = hashes[order]
    # One file's worth of states is drawn, and the files take it in turns to begin elsewhere in it.
    drawn = pack(states(min(users, 2 * FILE_USERS), tide.spec, np.random.default_rng(seed + version), window), packed)

    def chunks() -> Iterator[tuple[Hashes, StateBatch]]:
        for low, high in key_ranges(max(1, -(-users // FILE_USERS))):
            some = hashes[np.searchsorted(hashes[:, 0], low) : np.searchsorted(hashes[:, 0], high, side="right")]
            start = low % (len(drawn) - len(some) + 1)
            yield some, drawn.take(np.arange(start, start + len(some)), packed)

    directory.mkdir(parents=True)
    files = write_layer(directory, chunks(), packed)
    write_gone(directory, np.zeros((0, 2), np.int64), [])
    for name, static in (("head.onnx", False), ("static_head.onnx", True)):
        (directory / name).write_bytes(export_head(head, tide.spec, QUERY_DIM, static=static))
    # Lookups and heads are measured, not the encoder: these two stand in for its files.
    (directory / "query_encoder.onnx").write_bytes(b"none")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "golden.json").write_text(json.dumps({"cases": _golden(packed, head)}))
    manifest = {
        "version": version,
        "as_of": AS_OF,
        "valid_until": 2**40,
        "users": users,
        "llm": {"model": "none", "kind": "causal", "fingerprint": "0" * 64},
        "prefix": {"length": LENGTH, "dim": llm_dim, "rms": 0.02},
        "query_encoder": {"dim": QUERY_DIM},
        "states": {"precision": precision, "spec": packed.to_json(), "files": files},
        "erased_salt": "0" * 64,
        "layers": 1,
        "base": None,
    }
    seal(directory, manifest)
    return [names[i] for i in order]


def _golden(packed: StateSpec, head: TideHead) -> list[dict[str, Any]]:
    """The unknown user's prefixes, by torch."""
    tensors = {name: torch.from_numpy(array) for name, array in StateBatch.empty(1, packed).head_inputs(packed).items()}
    query = torch.linspace(-1, 1, QUERY_DIM)[None]
    plain, fused = (head(q, torch.tensor([AS_OF]), tensors)[0].tolist() for q in (None, query))
    return [
        {"row": None, "query": None, "query_embedding": None, "now": AS_OF, "prefix": plain},
        {"row": None, "query": "none", "query_embedding": query[0].tolist(), "now": AS_OF, "prefix": fused},
    ]
