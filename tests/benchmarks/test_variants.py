"""What the arms are made with: one thing changed, and that alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from authors import articles

from benchmarks.bench import Bench
from benchmarks.variants import HISTORY, SHAPES, TRAINED, Ablated, Budget, ablated, arm_config, bank_of, training_of, variant
from encoders.bank import Bank
from encoders.pplug import PplugBank
from encoders.tapper import TapperBank
from schemas.states import StateBatch


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Bench:
    return articles(tmp_path_factory.mktemp("data"), tiny_encoder, lambda *_: "a b c")


def differing(arm: str) -> set[str]:
    """Keys, ``section.name``, in which an arm's configuration is not tide's."""
    ours, tide = (arm_config(name, 0, Budget()).model_dump() for name in (arm, "tide"))
    return {f"{s}.{key}" for s in ours if isinstance(ours[s], dict) for key in ours[s] if ours[s][key] != tide[s][key]}


def test_a_shape_changes_what_it_says_and_nothing_else() -> None:
    for arm, sections in SHAPES.items():
        assert differing(arm) == {f"{section}.{key}" for section, changes in sections.items() for key in changes}
    assert differing("tide-shuffled-users") == {"train.relabelled"}
    assert differing("tide-window") == differing("tide-int8") == set()
    assert {arm_config(arm, 3, Budget(steps=7)).train.steps for arm in TRAINED} == {7}


def made(bench: Bench, arm: str) -> Ablated:
    found = ablated(arm, arm_config(arm, 0, Budget()), bench.examples)
    assert found is not None
    return found


def test_swapped_users_are_judged_on_strangers_and_trained_on_their_own(bench: Bench) -> None:
    assert training_of("tide-swapped-users") == "tide"
    own, swapped = bench.examples, variant("tide-swapped-users", bench.examples, 0)
    rows = bench.rows(0, "known")
    assert variant(training_of("tide-swapped-users"), own, 0) is own
    owner = {int(first): int(user) for first, user in zip(own.first, own.user, strict=True)}
    assert all(owner[int(first)] != user for first, user in zip(swapped.first[rows], swapped.user[rows], strict=True))
    assert np.array_equal(swapped.now, own.now)


@pytest.mark.parametrize("arm", ["tide-window", "tide-slots"])
def test_an_empty_memory_reaches_the_head_neither_in_training_nor_from_the_store(bench: Bench, arm: str) -> None:
    rows = bench.rows(0, "known")[:5]
    events = bench.examples.histories(rows, size=64)
    aggregator = made(bench, arm)
    trained = {name: x.detach().numpy() for name, x in aggregator.forward(len(rows), events).items()}
    stored = aggregator.update(StateBatch.empty(len(rows), aggregator.spec), events)
    no_slots = arm == "tide-window"
    for state in (trained, stored.columns):
        assert np.isneginf(state["slot_mass"]).all() == no_slots
        assert bool(np.any(state["window_scale"])) == no_slots
    assert stored.offsets[-1] == (len(events) if no_slots else 0)


def test_without_a_calendar_the_hour_says_nothing(bench: Bench) -> None:
    events = bench.examples.histories(bench.rows(0, "known")[:1], size=8)
    text, target, value = (torch.from_numpy(np.asarray(x, np.float32)) for x in (events.text, events.target, events.value))
    hours = [torch.from_numpy(events.ts + hour * 3_600) for hour in (0, 5)]
    aggregator = made(bench, "tide-no-calendar")
    assert torch.equal(*(aggregator.item_codes(text, target, value, ts) for ts in hours))
    whole = Ablated(arm_config("tide", 0, Budget()).tide, text.shape[1])
    assert not torch.equal(*(whole.item_codes(text, target, value, ts) for ts in hours))
    aggregator.forward(1, events)["slot_sum"].sum().backward()
    assert aggregator.from_calendar.weight.grad is None


@pytest.mark.parametrize(("name", "bank"), [("pplug", PplugBank), ("tapper", TapperBank)])
def test_a_short_bank_holds_the_latest_items_and_is_trained_on_what_the_long_one_is(bench: Bench, name: str, bank: type[Bank]) -> None:
    events = bench.examples.histories(bench.rows(0, "known")[:1], size=8)
    latest = bench.examples.histories(bench.rows(0, "known")[:1], size=3)
    assert len(events) > len(latest) == 3
    arm, budget = f"{name}-64-items", Budget(history=3)
    assert training_of(arm) == name
    assert arm_config(arm, 0, budget) == arm_config(name, 0, budget)
    long = bank(getattr(arm_config(name, 0, budget), name), events.text.shape[1], (2, 8))
    short = bank_of(arm, long, budget)
    assert bank_of(name, long, budget) is long
    seen = [one.forward(1, latest) for one in (long, short)]
    assert all(torch.equal(seen[0][column], seen[1][column]) for column in seen[0])
    assert short.forward(1, events)["item_text"].shape[1] == 3 < long.forward(1, events)["item_text"].shape[1]
    kept = [Bank.update(one, StateBatch.empty(1, one.spec), events).columns["item_key"].tolist() for one in (long, short)]
    assert kept[1] == kept[0][-3:]
    assert (long.spec.capacity, short.spec.capacity) == (HISTORY, 3)
