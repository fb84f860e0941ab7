"""Checkpoints: named by what they hold, refused when they are not that."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.adapter import QueryAdapter
from encoders.checkpoint import WEIGHTS, load_aggregator, load_head, pack_aggregator, pack_head
from encoders.head import TideHead
from encoders.personalizer import EventBatch
from encoders.tide import Tide
from schemas.config import TideConfig
from schemas.errors import CompatibilityError, CorruptError
from schemas.states import StateBatch, StateSpec

ENCODER, OTHER = "a1" * 32, "b2" * 32


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


@pytest.fixture
def adapter() -> QueryAdapter:
    adapter = QueryAdapter(12)
    torch.nn.init.normal_(adapter.up.weight)
    return adapter


def test_an_aggregator_comes_back_bit_for_bit(tmp_path: Path, tide: Tide, random_events: Callable[..., EventBatch]) -> None:
    tide.fit_scales(random_events(50, 2))
    name, files = pack_aggregator(tide, ENCODER, trained=True)
    loaded = load_aggregator(write(tmp_path / name, files), ENCODER)
    assert pack_aggregator(loaded, ENCODER, trained=True)[0] == name
    for key, value in tide.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    events, empty = random_events(40, 3), StateBatch.empty(3, tide.spec)
    for column, array in tide.update(empty, events).columns.items():
        np.testing.assert_array_equal(loaded.update(empty, events).columns[column], array)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_json_says_what_the_states_are(tide: Tide) -> None:
    about = json.loads(pack_aggregator(tide, ENCODER, trained=False)[1]["aggregator.json"])
    assert StateSpec.from_json(about["spec"]) == tide.spec
    assert (about["encoder"], about["trained"], about["personalizer"]) == (ENCODER, False, "tide")


def test_a_head_comes_back_bit_for_bit(tmp_path: Path, random_head: TideHead, adapter: QueryAdapter) -> None:
    name, files = pack_head(random_head, adapter, "agg", {"model": "m"}, {"loss": 1.5})
    head, loaded_adapter, about = load_head(write(tmp_path / name, files))
    assert pack_head(head, loaded_adapter, "agg", {"model": "m"}, {"loss": 1.5})[0] == name
    for ours, theirs in ((random_head, head), (adapter, loaded_adapter)):
        for key, value in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[key], value), key
    assert (about["aggregator"], about["llm"], about["metrics"]) == ("agg", {"model": "m"}, {"loss": 1.5})
    assert head.slot_decay.abs().sum() > 0


def test_a_head_of_a_frozen_neutral_prefix_comes_back(tmp_path: Path, tide: Tide, adapter: QueryAdapter) -> None:
    head = TideHead(tide.config, 12, 6, torch.randn(3, 6), 0.25, True)
    name, files = pack_head(head, adapter, "agg", {}, {})
    loaded, _, about = load_head(write(tmp_path / name, files))
    assert torch.equal(loaded.neutral, head.neutral)
    assert (loaded.rms, about["neutral_frozen"], loaded.length) == (0.25, True, 3)


def test_the_same_content_has_the_same_name(tide: Tide, random_head: TideHead, adapter: QueryAdapter) -> None:
    assert pack_aggregator(tide, ENCODER, trained=True) == pack_aggregator(tide, ENCODER, trained=True)
    assert pack_head(random_head, adapter, "a", {}, {})[0] == pack_head(random_head, adapter, "a", {}, {})[0]


@pytest.mark.parametrize("weight", ["from_text.weight", "raw_decay", "value_mean", "score.bias"])
def test_one_changed_weight_gives_another_name(tide: Tide, weight: str) -> None:
    before = pack_aggregator(tide, ENCODER, trained=True)[0]
    with torch.no_grad():
        tide.state_dict()[weight].view(-1)[:1] += 1e-3
    assert pack_aggregator(tide, ENCODER, trained=True)[0] != before


def test_encoder_and_shape_are_in_the_name(tide: Tide) -> None:
    wider = Tide(TideConfig(**{**tide.config.model_dump(), "window": 6}), tide.text_dim)
    wider.load_state_dict(tide.state_dict())
    names = {pack_aggregator(a, e, trained=True)[0] for a, e in ((tide, ENCODER), (tide, OTHER), (wider, ENCODER))}
    assert len(names) == 3


def test_adapter_aggregator_and_llm_are_in_a_heads_name(random_head: TideHead, adapter: QueryAdapter) -> None:
    names = [pack_head(random_head, adapter, "a", {"f": 1}, {})[0], pack_head(random_head, adapter, "b", {"f": 1}, {})[0]]
    names.append(pack_head(random_head, adapter, "a", {"f": 2}, {})[0])
    with torch.no_grad():
        adapter.down.weight[0, 0] += 1
    names.append(pack_head(random_head, adapter, "a", {"f": 1}, {})[0])
    assert len(set(names)) == 4


def test_another_encoder_is_refused_and_both_are_named(tmp_path: Path, tide: Tide) -> None:
    directory = write(tmp_path, pack_aggregator(tide, ENCODER, trained=True)[1])
    with pytest.raises(CompatibilityError) as caught:
        load_aggregator(directory, OTHER)
    assert ENCODER[:12] in str(caught.value)
    assert OTHER[:12] in str(caught.value)
    assert load_aggregator(directory).spec == tide.spec


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _empty(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("spoil", [_cut, _empty, None])
@pytest.mark.parametrize("file", [WEIGHTS, "json"])
def test_spoiled_files_are_corrupt(tmp_path: Path, tide: Tide, random_head: TideHead, adapter: QueryAdapter, file: str, spoil) -> None:
    made = {
        "aggregator.json": (pack_aggregator(tide, ENCODER, trained=True)[1], load_aggregator),
        "head.json": (pack_head(random_head, adapter, "a", {}, {})[1], load_head),
    }
    for about, (files, load) in made.items():
        directory = write(tmp_path / about, files)
        path = directory / (about if file == "json" else file)
        load(directory)
        if spoil:
            path.write_bytes(spoil(path.read_bytes()))
        else:
            path.unlink()
        with pytest.raises(CorruptError) as caught:
            load(directory)
        assert str(directory) in caught.value.where


def test_weights_of_another_shape_are_corrupt(tmp_path: Path, tide: Tide) -> None:
    other = Tide(TideConfig(slots=5, dim=8, window=5, hidden=16), tide.text_dim)
    files = {**pack_aggregator(tide, ENCODER, trained=True)[1], WEIGHTS: pack_aggregator(other, ENCODER, trained=True)[1][WEIGHTS]}
    with pytest.raises(CorruptError, match="do not fit"):
        load_aggregator(write(tmp_path, files))


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"tide": {"slots": -1}, "text_dim": 16, "encoder": "x"}'])
def test_a_json_that_says_something_else_is_corrupt(tmp_path: Path, tide: Tide, content: str) -> None:
    files = {**pack_aggregator(tide, ENCODER, trained=True)[1], "aggregator.json": content.encode(), "head.json": content.encode()}
    directory = write(tmp_path, files)
    for load in (load_aggregator, load_head):
        with pytest.raises(CorruptError):
            load(directory)
