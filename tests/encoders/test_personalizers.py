"""What every personalizer must do, and what the item bank, Persona-Plug and TAP-PER compute."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from encoders.adapter import QueryAdapter
from encoders.bridge import Bridge
from encoders.checkpoint import load_aggregator, load_head, pack_aggregator, pack_head
from encoders.export import export_head
from encoders.llm import FrozenLLM
from encoders.personalizer import Aggregator, EventBatch, Head
from encoders.pplug import PplugBank, PplugHead
from encoders.registry import KINDS, new_aggregator, new_head
from encoders.tapper import TapperBank, TapperHead
from schemas.config import Config, TapperConfig
from schemas.errors import CompatibilityError
from schemas.states import StateBatch

DIM, LLM_DIM, LENGTH = 16, 6, 3
CONFIG = {
    "tide": {"slots": 3, "dim": 8, "window": 5, "hidden": 8},
    "pplug": {"items": 7},
    "tapper": {"items": 7, "row_events": 6, "row_session": 2},
}
Make = Callable[..., EventBatch]


def made(name: str) -> tuple[Aggregator, Head]:
    config = Config.model_validate({"personalizer": name, "seed": 4, **CONFIG})
    aggregator = new_aggregator(config, DIM, (LENGTH, LLM_DIM))
    head = new_head(config, DIM, LLM_DIM, torch.randn(LENGTH, LLM_DIM), 0.5, True)
    head.align(aggregator)
    head.bind(aggregator)
    return aggregator, head


def states_of(aggregator: Aggregator, events: EventBatch, users: int) -> StateBatch:
    """Built states; the rows of tapper are fitted through an LLM, so here they are drawn."""
    if isinstance(aggregator, TapperBank):
        found = aggregator.update(StateBatch.empty(users, aggregator.spec), replace(events, texts=None, targets=None))
        rows = np.random.default_rng(1).standard_normal((users, LENGTH, LLM_DIM)).astype(np.float32)
        return StateBatch({**found.columns, "user_row": rows}, found.offsets)
    return aggregator.update(StateBatch.empty(users, aggregator.spec), events)


def inputs(aggregator: Aggregator, states: StateBatch) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(x) for name, x in states.head_inputs(aggregator.spec).items()}


def noisy(head: Head) -> Head:
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return head.eval()


@pytest.mark.parametrize("name", KINDS)
def test_a_head_begins_at_the_neutral_prefix(name: str, random_events: Make) -> None:
    aggregator, head = made(name)
    states = inputs(aggregator, states_of(aggregator, random_events(40, 3), 3))
    if name == "tapper":
        states["user_row"].zero_()
    prefix = head(torch.randn(3, DIM), torch.full((3,), 1_760_000_000), states)
    torch.testing.assert_close(prefix, head.neutral_prefix().expand(3, -1, -1))


@pytest.mark.parametrize("name", KINDS)
def test_no_prefix_leaves_the_cap(name: str, random_events: Make) -> None:
    aggregator, head = made(name)
    with torch.no_grad():
        head.out.weight.fill_(50.0)
    states = inputs(aggregator, states_of(aggregator, random_events(40, 3), 3))
    delta = (head(torch.randn(3, DIM), torch.full((3,), 1_760_000_000), states) - head.neutral_prefix()) / head.rms
    assert float(delta.detach().square().mean(-1).sqrt().max()) <= 3.0 + 1e-4


@pytest.mark.parametrize("name", KINDS)
def test_aggregator_and_head_come_back_bit_for_bit(name: str, tmp_path: Path, random_events: Make) -> None:
    aggregator, head = made(name)
    adapter, head = QueryAdapter(DIM), noisy(head)
    aggregator.settle(head, adapter, {"fingerprint": "f" * 64, "model": "m"})
    for folder, (hashed, files) in {
        "aggregator": pack_aggregator(aggregator, "e" * 64, trained=True),
        "head": pack_head(head, adapter, "a", {}, {}),
    }.items():
        directory = tmp_path / folder
        directory.mkdir()
        for file, data in files.items():
            (directory / file).write_bytes(data)
        if folder == "aggregator":
            loaded = load_aggregator(directory, "e" * 64)
            assert pack_aggregator(loaded, "e" * 64, trained=True)[0] == hashed
            assert (loaded.spec, loaded.described) == (aggregator.spec, aggregator.described)
        else:
            again, loaded_adapter, _ = load_head(directory)
            assert pack_head(again, loaded_adapter, "a", {}, {})[0] == hashed
            states = inputs(aggregator, states_of(aggregator, random_events(30, 2), 2))
            query, now = torch.randn(2, DIM), torch.full((2,), 1_760_000_000)
            assert torch.equal(again(query, now, states), head(query, now, states))


@pytest.mark.parametrize("name", ["pplug", "tapper"])
def test_the_export_agrees_on_real_states(name: str, random_events: Make) -> None:
    """tide's export has its own tests."""
    aggregator, head = made(name)
    noisy(head)
    graph = onnxruntime.InferenceSession(export_head(head, aggregator.spec, DIM, static=False), providers=["CPUExecutionProvider"])
    states = states_of(aggregator, random_events(60, 5), 7)
    feeds = states.head_inputs(aggregator.spec)
    query, now = np.random.default_rng(0).standard_normal((7, DIM)).astype(np.float32), np.full(7, 1_760_000_000)
    found = graph.run(["prefix"], {**feeds, "query": query, "now": now})[0]
    wanted = head(torch.from_numpy(query), torch.from_numpy(now), inputs(aggregator, states)).detach().numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * np.sqrt(np.mean(wanted**2))
    export_head(head, aggregator.spec, DIM, static=True)


@pytest.mark.parametrize("name", ["pplug", "tapper"])
def test_training_sees_what_a_refresh_stores(name: str, random_events: Make) -> None:
    aggregator, _ = made(name)
    events = random_events(60, 4)
    stored = aggregator.update(StateBatch.empty(6, aggregator.spec), events).head_inputs(aggregator.spec)
    seen = aggregator(6, events)
    assert set(seen) == set(stored)
    for column, array in stored.items():
        np.testing.assert_array_equal(seen[column].numpy(), array, err_msg=column)


@pytest.mark.parametrize("seed", range(4))
def test_a_bank_is_the_same_in_any_order_of_arrival(seed: int, random_events: Make, pick: Callable[..., EventBatch]) -> None:
    bank, _ = made("pplug")
    events, rng = random_events(80, 3, seed), np.random.default_rng(seed)
    whole = bank.update(StateBatch.empty(3, bank.spec), events)
    grown = StateBatch.empty(3, bank.spec)
    for part in np.array_split(rng.permutation(80), rng.integers(1, 9)):
        grown = bank.update(grown, pick(events, part))
    np.testing.assert_array_equal(whole.offsets, grown.offsets)
    for column, array in whole.columns.items():
        np.testing.assert_array_equal(array, grown.columns[column], err_msg=column)
    assert np.diff(whole.offsets).max() == 7


def test_persona_plug_weighs_by_likeness_and_by_nothing_else(random_events: Make) -> None:
    bank, head = made("pplug")
    assert isinstance(bank, PplugBank)
    assert isinstance(head, PplugHead)
    noisy(head)
    states = inputs(bank, bank.update(StateBatch.empty(1, bank.spec), random_events(5, 1)))
    query, now = torch.randn(1, DIM), torch.tensor([1_760_000_000])
    text, target = states["item_text"][0], states["item_target"][0]
    weight = torch.softmax(text @ query[0], 0)
    each = torch.nn.functional.gelu(head.from_text(text) + head.from_target(target)) / LLM_DIM**0.5
    person = sum(w * head.out(h) for w, h in zip(weight, each, strict=True))
    wanted = head.contract(torch.cat([head.instruction, person[None]])[None])
    torch.testing.assert_close(head(query, now, states), wanted)
    shuffled = {name: x[:, torch.tensor([3, 0, 4, 1, 2])] for name, x in states.items()}
    torch.testing.assert_close(head(query, now + 10**7, shuffled), wanted)


def test_tap_per_computes_the_papers_equations(random_events: Make) -> None:
    bank, head = made("tapper")
    assert isinstance(head, TapperHead)
    noisy(head)
    states = inputs(bank, states_of(bank, random_events(5, 1), 1))
    query, now = torch.randn(1, DIM), torch.tensor([1_760_000_000])
    items = states["item_text"][0] @ head.from_text.weight.T + states["item_target"][0] @ head.from_target.weight.T
    days = (now - states["item_time"][0]).double() / 86_400
    mlp = torch.nn.Sequential(head.features, torch.nn.GELU(), head.relevance)
    gaps = torch.tensor([5.0, 4, 3, 2, 1])
    score = torch.stack([mlp(torch.cat([query[0], h, query[0] - h, query[0] * h]))[0] for h in items])
    score = score - head.time_penalty * torch.log(1 + days).float() - head.order_penalty * torch.log(1 + gaps)
    shared = head.out(torch.softmax(score, 0) @ items).view(LENGTH, LLM_DIM)
    torch.testing.assert_close(head(query, now, states), head.contract((shared + states["user_row"][0])[None]), rtol=1e-4, atol=1e-5)


def test_the_options_of_tap_per_change_its_state() -> None:
    columns = {
        (time, row): [c.name for c in TapperBank(TapperConfig(time=time, row=row), DIM, (LENGTH, LLM_DIM)).spec.columns if c.head]
        for time in (True, False)
        for row in (True, False)
    }
    assert columns[True, True] == ["user_row", "item_text", "item_target", "item_time"]
    assert columns[False, False] == ["item_text", "item_target"]
    with pytest.raises(CompatibilityError, match="belong to an LLM"):
        TapperBank(TapperConfig(), DIM)


@pytest.fixture
def fitted(tiny_llms: Callable[[str], FrozenLLM]) -> TapperBank:
    """tapper for a tiny LLM, with a random head."""
    llm = tiny_llms("bert2bert")
    config = Config.model_validate({"personalizer": "tapper", "seed": 4, **CONFIG})
    bank = new_aggregator(config, DIM, (2, llm.dim))
    assert isinstance(bank, TapperBank)
    neutral, frozen = llm.neutral_prefix(2)
    head = noisy(new_head(config, DIM, llm.dim, neutral, 0.2, frozen))
    bank.settle(head, QueryAdapter(DIM), llm.describe())
    bank.requires_grad_(False)
    bank.attach(llm)
    return bank


def told(events: EventBatch, answer: str = "politics") -> EventBatch:
    return replace(events, texts=["the old town"] * len(events), targets=[answer] * len(events))


def test_a_row_goes_downhill_for_its_own_user_only(fitted: TapperBank, random_events: Make, pick: Callable[..., EventBatch]) -> None:
    plain = random_events(8, 2)
    events = told(plain)
    states = fitted.update(StateBatch.empty(3, fitted.spec), events)
    rows = states.columns["user_row"]
    assert (np.abs(rows[:2]).max((1, 2)) > 0).all()
    assert not rows[2].any()
    part = np.arange(8)
    nothing = EventBatch(*(x[:0] for x in vars(events).values() if isinstance(x, np.ndarray)))
    before, after = (fitted._loss(torch.from_numpy(x[events.user]), nothing, events, part).mean() for x in (np.zeros_like(rows), rows))
    assert float(after) < float(before)
    own = told(pick(plain, np.flatnonzero(plain.user == 0)))
    np.testing.assert_allclose(fitted.update(StateBatch.empty(1, fitted.spec), own).columns["user_row"][0], rows[0], atol=1e-4)


def test_a_night_moves_only_rows_with_new_targets(fitted: TapperBank, random_events: Make, pick: Callable[..., EventBatch]) -> None:
    events = random_events(8, 3)
    first = fitted.update(StateBatch.empty(3, fitted.spec), told(events))
    news = pick(random_events(3, 1, 5), np.arange(3))
    second = fitted.update(first, replace(news, texts=["bread"] * 3, targets=["music", None, None]))
    moved = np.abs(second.columns["user_row"] - first.columns["user_row"]).max((1, 2))
    assert moved[0] > 0
    assert not moved[1:].any()
    silent = fitted.update(first, replace(news, texts=["bread"] * 3, targets=[None] * 3))
    np.testing.assert_array_equal(silent.columns["user_row"], first.columns["user_row"])


def test_rows_are_fitted_through_the_bridge(
    fitted: TapperBank, random_events: Make, tiny_llms: Callable[[str], FrozenLLM], tmp_path: Path
) -> None:
    events, llm = told(random_events(8, 2)), tiny_llms("bert2bert")
    plain = fitted.update(StateBatch.empty(3, fitted.spec), events).columns["user_row"]
    bridge = Bridge.for_llm(llm, 2).eval().requires_grad_(False)
    for up in bridge.up:
        torch.nn.init.normal_(up, std=0.5)
    copied = copy.deepcopy(llm)
    assert fitted.head is not None
    fitted.head.bridge = bridge
    fitted.attach(copied)
    bridged = fitted.update(StateBatch.empty(3, fitted.spec), events).columns["user_row"]
    assert np.abs(bridged - plain).max() > 0
    name, files = pack_aggregator(fitted, "", trained=True)
    for file, data in files.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_bytes(data)
    again = load_aggregator(tmp_path / name)
    again.attach(copy.deepcopy(llm))
    np.testing.assert_array_equal(again.update(StateBatch.empty(3, fitted.spec), events).columns["user_row"], bridged)


def test_rows_refuse_another_llm(fitted: TapperBank, tiny_llms: Callable[[str], FrozenLLM]) -> None:
    with pytest.raises(CompatibilityError, match="belong to LLM"):
        fitted.attach(tiny_llms("t5"))
