"""Exported graphs compute what torch computes, on shapes the export never saw, or there is no export."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from encoders import export
from encoders.adapter import QueryAdapter
from encoders.export import export_head, export_query_encoder, query_embedding
from encoders.head import TideHead
from encoders.personalizer import EventBatch
from encoders.text import TextEncoder
from encoders.tide import Tide
from schemas.config import EncoderConfig
from schemas.errors import ParityError
from schemas.states import StateBatch
from store.packing import Precision, bundle_spec, pack, records, unpack

TODAY = 1_760_000_000
QUERY_DIM = 12


Graphs = dict[bool, onnxruntime.InferenceSession]


def session(graph: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def random_adapter(dim: int) -> QueryAdapter:
    adapter = QueryAdapter(dim)
    torch.nn.init.normal_(adapter.up.weight, std=0.1)
    return adapter.eval()


@pytest.fixture(scope="module")
def graphs(tide_and_head: tuple[Tide, TideHead]) -> Graphs:
    """Both graphs, by whether they are static; making them leaves the head as it was."""
    tide, head = tide_and_head
    before = {name: x.clone() for name, x in head.state_dict().items()}
    made = {static: session(export_head(head, tide.spec, QUERY_DIM, static=static)) for static in (False, True)}
    assert all(torch.equal(x, before[name]) for name, x in head.state_dict().items())
    assert head.gain.requires_grad
    return made


@pytest.mark.parametrize("bundled", ["", "float16", "int8"])
@pytest.mark.parametrize("static", [False, True])
def test_heads_agree_with_torch_on_real_states(
    graphs: Graphs, tide_and_head: tuple[Tide, TideHead], random_events: Callable[..., EventBatch], static: bool, bundled: Precision
) -> None:
    """States of ``update``, also in a bundle's types, two unknown users behind the others; batches no export has traced."""
    (tide, head), graph = tide_and_head, graphs[static]
    for users, events in ((1, 1), (2, 0), (7, 9), (33, 400)):
        states = tide.update(StateBatch.empty(users + 2, tide.spec), random_events(events, users, users))
        spec = bundle_spec(tide.spec, bundled) if bundled else tide.spec
        if bundled:
            states = unpack(records(np.arange(users + 2), pack(states, spec), spec), spec)
        feeds = {**states.head_inputs(spec), "now": np.full(users + 2, TODAY, np.int64)}
        state = {name: torch.from_numpy(x.copy()) for name, x in feeds.items()}
        query = None
        if not static:
            query = torch.randn(users + 2, QUERY_DIM)
            feeds["query"] = query.numpy()
        assert {x.name for x in graph.get_inputs()} == set(feeds)
        (found,) = graph.run(["prefix"], feeds)
        with torch.no_grad():
            wanted = head(query, state["now"], state).numpy()
        assert found.shape == (users + 2, 3, 6)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
        if static:
            np.testing.assert_allclose(found[-1], found[-2], rtol=0, atol=1e-6)
            assert events == 0 or np.abs(found[0] - found[-1]).max() > 1e-2


def test_static_prefix_of_the_unknown_is_the_same_in_any_batch(graphs: Graphs, tide: Tide) -> None:
    found = []
    for users in (1, 6):
        inputs = StateBatch.empty(users, tide.spec).head_inputs(tide.spec)
        found.append(graphs[True].run(["prefix"], {**inputs, "now": np.full(users, TODAY, np.int64)})[0])
    np.testing.assert_allclose(found[1], np.repeat(found[0], 6, 0), atol=1e-6)


def test_inputs_are_the_specs_columns_with_free_batch_and_items(graphs: Graphs, tide: Tide) -> None:
    names = [c.name for c in tide.spec.columns if c.head]
    assert [x.name for x in graphs[False].get_inputs()] == ["query", "now", *names]
    assert [x.name for x in graphs[True].get_inputs()] == ["now", *names]
    for x in graphs[False].get_inputs():
        free = [isinstance(size, str) for size in x.shape]
        assert free == [True, x.name.startswith("window_"), False][: len(free)], x.name


class Drifting(TideHead):
    """A head that no graph can repeat: torch computes a slightly other prefix each time."""

    def contract(self, delta: Tensor, task: Tensor | None = None) -> Tensor:
        return super().contract(delta, task) * (1 + 0.01 * torch.rand(()))


def test_a_head_that_differs_from_its_graph_is_refused(tide: Tide) -> None:
    head = Drifting(tide.config, QUERY_DIM, 6, torch.randn(3, 6), 0.5, False).eval()
    with pytest.raises(ParityError, match="differs from torch") as caught:
        export_head(head, tide.spec, QUERY_DIM, static=True)
    assert "HeadGraph" in caught.value.where


class Scaled(nn.Module):
    """Twice the input, but for what it is told to add beyond the traced batch."""

    extra = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + (self.extra if not torch.compiler.is_exporting() and len(x) > 2 else 0.0)


@pytest.mark.parametrize(("extra", "refused"), [(0.0, False), (1e-6, False), (1e-3, True), (float("nan"), True)])
def test_a_difference_on_an_unseen_shape_alone_is_refused(extra: float, refused: bool) -> None:
    graph = Scaled()
    graph.extra = extra
    rng = np.random.default_rng(0)
    samples = [[rng.standard_normal((n, 4)).astype(np.float32)] for n in (2, 5)]
    with pytest.raises(ParityError) if refused else nullcontext():
        assert export._export(graph, ["x"], "y", [{0: "batch"}], samples)


def check_query_encoder(encoder: TextEncoder, texts: list[str]) -> None:
    adapter = random_adapter(encoder.dim)
    graph = session(export_query_encoder(encoder, adapter))
    for count in (1, len(texts)):
        inputs = encoder.tokenizer(texts[:count], padding=True, truncation=True, max_length=encoder.max_tokens, return_tensors="np")
        feeds = {name: inputs[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        (found,) = graph.run(["query"], feeds)
        with torch.no_grad():
            wanted = adapter(encoder.pooling(*(torch.from_numpy(x) for x in feeds.values()))).numpy()
            stored = adapter(torch.from_numpy(encoder.encode(texts[:count])).float()).numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
        # Serving asks as training did, but for the float16 of the stored vectors.
        np.testing.assert_allclose(found, stored, rtol=0, atol=2e-3)


def test_query_encoder_agrees_with_torch(tiny_encoder_dir: Path) -> None:
    check_query_encoder(TextEncoder(EncoderConfig(model=str(tiny_encoder_dir))), ["one", "two words", "a somewhat longer text " * 9])


@pytest.mark.slow
def test_query_encoder_of_minilm_agrees_with_torch(minilm: TextEncoder) -> None:
    check_query_encoder(minilm, ["fix race", "", "a review of a slow film with a fine ending " * 6])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_export_leaves_the_encoder_as_it_was(tiny_encoder_dir: Path, precision: str) -> None:
    config = EncoderConfig(model=str(tiny_encoder_dir), precision=precision)
    encoder = TextEncoder(config)
    before = encoder.encode(["some text", "another"])
    export_query_encoder(encoder, random_adapter(encoder.dim))
    assert encoder.encode(["some text", "another"]).tobytes() == before.tobytes()
    assert encoder.fingerprint == TextEncoder(config).fingerprint


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_expected_query_embeddings_are_not_rounded(tiny_encoder_dir: Path, precision: str) -> None:
    """A head's attention amplifies a float16's rounding: golden answers made from cached vectors were off by 1e-3."""
    encoder = TextEncoder(EncoderConfig(model=str(tiny_encoder_dir), precision=precision))
    adapter = random_adapter(encoder.dim)
    graph = session(export_query_encoder(encoder, adapter))
    ids = encoder.tokenizer("some text", return_tensors="np")
    served = graph.run(None, {name: ids[name].astype(np.int64) for name in ("input_ids", "attention_mask")})[0]
    np.testing.assert_allclose(query_embedding(encoder, adapter, "some text").numpy(), served, rtol=0, atol=2e-6)
