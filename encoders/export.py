"""ONNX export of head and query encoder, refused unless onnxruntime computes what torch computes."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

from encoders.adapter import QueryAdapter
from encoders.personalizer import Head
from encoders.text import TextEncoder
from schemas.errors import ParityError
from schemas.states import StateBatch, StateSpec

#: Largest difference allowed between onnxruntime and torch: absolute, in units of the output's rms for prefixes.
TOLERANCE = 1e-4
#: Batches and remembered items the graphs are checked on; the export traces another shape.
CHECKED_SHAPES = ((1, 1), (1, 7), (3, 1), (5, 64))

#: A query whose embedding is kept with a head: what bundles made with it later compare their graphs with.
GOLDEN_QUERY, GOLDEN_FILE = "what should come next", "golden_query.json"


class HeadGraph(nn.Module):
    """A head with positional inputs: ``query`` (unless static), ``now``, ``task`` (if it knows tasks), then the state columns it reads."""

    def __init__(self, head: Head, spec: StateSpec, static: bool) -> None:
        super().__init__()
        self.head = head
        self.columns = [c.name for c in spec.columns if c.head]
        self.tasks = len(head.instructions.tasks) if head.instructions else 0
        self.names = [*([] if static else ["query"]), "now", *(["task"] if self.tasks else []), *self.columns]

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        prefix: Tensor = self.head(given.get("query"), given["now"], {name: given[name] for name in self.columns}, given.get("task"))
        return prefix


class QueryGraph(nn.Module):
    """Token ids and mask to the adapted query embedding."""

    def __init__(self, encoder: TextEncoder, adapter: QueryAdapter) -> None:
        super().__init__()
        self.pooling, self.adapter = encoder.pooling, adapter

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embedding: Tensor = self.adapter(self.pooling(input_ids, attention_mask))
        return embedding


def export_head(head: Head, spec: StateSpec, query_dim: int, *, static: bool) -> bytes:
    """``head.onnx`` or ``static_head.onnx``.

    Inputs: ``query`` float32 ``[batch, query_dim]`` (not in the static graph), ``now`` int64 ``[batch]``, ``task`` int64 ``[batch]`` if the
    head has instructions (-1: none), then each state column the head reads: ``[batch, *shape]`` or, per item, ``[batch, items, *shape]``.
    Output: ``prefix`` float32 ``[batch, L, d_llm]``.

    Raises:
        ParityError: onnxruntime and torch differ by more than ``TOLERANCE`` on a shape that the export has not seen.
    """
    graph = HeadGraph(head, spec, static).eval()
    per_item = {c.name for c in spec.columns if c.per == "item"}
    axes = [{0: "batch", 1: "items"} if name in per_item else {0: "batch"} for name in graph.names]
    # Of tasks, each one is checked, and none.
    shapes = ((4, 5), *CHECKED_SHAPES, *([(graph.tasks + 1, 2)] if graph.tasks else []))
    samples = [_head_sample(graph, spec, query_dim, batch, items) for batch, items in shapes]
    return _export(graph, graph.names, "prefix", axes, samples)


def export_query_encoder(encoder: TextEncoder, adapter: QueryAdapter) -> bytes:
    """``query_encoder.onnx``: ``input_ids``, ``attention_mask`` int64 ``[batch, tokens]`` to ``query`` float32 ``[batch, dim]``.

    Raises:
        ParityError: as ``export_head``.
    """
    graph = _query_graph(encoder, adapter)
    axes = [{0: "batch", 1: "tokens"}] * 2
    rng = np.random.default_rng(0)
    samples = []
    for batch, tokens in ((3, 9), (1, 2), (1, 33), (6, 17)):
        mask = (np.arange(tokens)[None] < rng.integers(1, tokens + 1, batch)[:, None]).astype(np.int64)
        samples.append([rng.integers(0, len(encoder.tokenizer), (batch, tokens)), mask])
    return _export(graph, ["input_ids", "attention_mask"], "query", axes, samples)


@torch.no_grad()
def query_embedding(encoder: TextEncoder, adapter: QueryAdapter, text: str) -> Tensor:
    """What ``query_encoder.onnx`` gives for ``text``, by torch: float32 ``[1, dim]``.

    Not ``encoder.encode``: its vectors are rounded for the cache, which a head's attention can amplify beyond any tolerance.
    """
    graph = _query_graph(encoder, adapter)
    tokens = encoder.tokenizer(text, truncation=True, max_length=encoder.max_tokens, return_tensors="pt")
    found: Tensor = graph(tokens["input_ids"], tokens["attention_mask"])
    return found


def _query_graph(encoder: TextEncoder, adapter: QueryAdapter) -> QueryGraph:
    """A copy on the CPU in float32: the encoder keeps its device and precision."""
    return copy.deepcopy(QueryGraph(encoder, adapter)).float().cpu().eval()


def _head_sample(graph: HeadGraph, spec: StateSpec, query_dim: int, batch: int, items: int) -> list[Any]:
    """Random inputs of one shape; the last user of a larger batch has no events."""
    rng = np.random.default_rng(batch * 1000 + items)
    empty = StateBatch.empty(batch, spec).head_inputs(spec)
    made: dict[str, Any] = {
        "query": rng.standard_normal((batch, query_dim)).astype(np.float32),
        "now": np.full(batch, 1_700_000_000, np.int64),
        "task": np.arange(batch) % (graph.tasks + 1) - 1,
    }
    for column in spec.columns:
        if not column.head:
            continue
        shape = (batch, items, *column.shape) if column.per == "item" else (batch, *column.shape)
        dtype = empty[column.name].dtype
        if dtype == np.int64:
            array: npt.NDArray[Any] = 1_700_000_000 - rng.integers(0, 10**7, shape)
        elif dtype == np.int8:
            array = rng.integers(-127, 128, shape)
        else:
            array = np.abs(rng.standard_normal(shape)) * 0.02 + 0.001 if column.per == "item" else rng.standard_normal(shape)
        array = array.astype(dtype)
        if batch > 1:
            array[-1] = 0 if column.per == "item" else empty[column.name][-1]
        made[column.name] = array
    return [made[name] for name in graph.names]


def _export(graph: nn.Module, names: list[str], output: str, axes: Sequence[Mapping[int, str]], samples: list[list[Any]]) -> bytes:
    traced, *checked = [[torch.from_numpy(np.ascontiguousarray(array)) for array in sample] for sample in samples]
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        path = Path(directory) / "graph.onnx"
        torch.onnx.export(
            graph,
            tuple(traced),
            path,
            input_names=names,
            output_names=[output],
            dynamic_shapes=(tuple(axes),) if isinstance(graph, HeadGraph) else tuple(axes),
            external_data=False,
            verbose=False,
        )
        exported = path.read_bytes()
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    for sample in [traced, *checked]:
        feeds = {name: tensor.numpy() for name, tensor in zip(names, sample, strict=True)}
        found = session.run([output], feeds)[0]
        with torch.no_grad():
            wanted = graph(*sample).numpy()
        scale = max(1e-12, float(np.sqrt(np.mean(np.square(wanted)))))
        gap = float(np.abs(found - wanted).max()) / scale if found.shape == wanted.shape else float("inf")
        if not gap <= TOLERANCE:
            raise ParityError(
                f"the exported graph differs from torch by {gap:.2e} of the output's rms, more than {TOLERANCE}",
                where=f"{type(graph).__name__}, inputs {[list(x.shape) for x in feeds.values()]}",
                mend="report it with the versions that `tapstate --version` prints",
            )
    return exported
