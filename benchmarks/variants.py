"""What each trained arm is: its personalizer, its configuration, and the examples it sees.

Beside the arms of the comparison, ``SHAPES`` are tide with one thing about it changed.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.controls import ShuffledDates, of_strangers, without_histories
from encoders.examples import Examples
from encoders.personalizer import Aggregator, EventBatch
from encoders.tide import Tide
from schemas.config import Config, PplugConfig, TapperConfig, TideConfig, TrainConfig
from schemas.states import StateBatch

#: Items of a history that an arm may read when judged: what the banks keep. tide's slots alone would take more.
HISTORY = 512
#: As a ``Budget.lag``: histories up to the second before the query, no night between.
LIVE = -1
#: How an arm's name ends whose bank holds the items that training shows.
SHORT_BANK = "-64-items"
#: What the configuration of a changed tide says otherwise; the calendar is no option of it.
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "tide-1-slot": {"tide": {"slots": 1}},
    "tide-4-slots": {"tide": {"slots": 4}},
    "tide-one-half-life": {"tide": {"half_life_hours": 720.0, "half_life_days": 30.0}},
    "tide-16-items": {"tide": {"window": 16}},
    "tide-128-dims": {"tide": {"dim": 128}},
    "tide-shared-code": {"tide": {"target_share": 0.0}},
    "tide-no-calendar": {},
    "tide-no-copies": {"train": {"relabelled": 0.0}},
    "tide-1-vector": {"train": {"prefix_length": 1}},
    "tide-2-vectors": {"train": {"prefix_length": 2}},
}
COMPARED = (
    "default",
    "tide",
    "tide-int8",
    "tapper",
    "tapper-64-items",
    "pplug",
    "pplug-64-items",
    "tide-window",
    "tide-shuffled-users",
)
ABLATED = ("tide-slots", "tapper-no-time", "tapper-no-user-row", "tide-swapped-users", "tide-shuffled-dates")
TRAINED = (*COMPARED, *ABLATED, *SHAPES)


@dataclass(frozen=True)
class Budget:
    """What every trained arm gets: the same steps, batch and items, its method's rate on the task.

    ``lag`` ages the judged states by so many nights, or is ``LIVE``.
    """

    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 1e-3
    history: int = 64
    evaluated: int = 512
    lag: int = 0


class Ablated(Tide):
    """tide without one thing: ``slots``, ``window`` (then always empty), or ``calendar``."""

    without = ""

    def forward(self, users: int, events: EventBatch) -> dict[str, torch.Tensor]:
        """As ``Tide.forward``, with the empty memory masked."""
        state = super().forward(users, events)
        if self.without == "calendar":
            return state
        name, nothing = ("slot_mass", -torch.inf) if self.without == "slots" else ("window_scale", 0.0)
        return {**state, name: torch.full_like(state[name], nothing)}

    def update(self, states: StateBatch, events: EventBatch) -> StateBatch:
        """As ``Tide.update``, without that memory."""
        state = super().update(states, events)
        if self.without == "calendar":
            return state
        if self.without == "slots":
            return StateBatch({**state.columns, "slot_mass": np.full_like(state.columns["slot_mass"], -np.inf)}, state.offsets)
        items = {c.name: state.columns[c.name][:0] for c in self.spec.columns if c.per == "item"}
        return StateBatch({**state.columns, **items}, np.zeros_like(state.offsets))


def ablated(arm: str, config: Config, examples: Examples) -> Ablated | None:
    """The aggregator of an arm that is no configuration; None for the others."""
    without = {"tide-window": "slots", "tide-slots": "window", "tide-no-calendar": "calendar"}.get(arm)
    if not without:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        aggregator = Ablated(config.tide, examples.vectors.shape[1])
    aggregator.without = without
    if without == "calendar":
        torch.nn.init.zeros_(aggregator.from_calendar.weight).requires_grad_(False)
    seen = examples.seen(np.arange(len(examples)))
    aggregator.fit_scales(examples.events(seen, np.zeros(len(seen), np.int64)))
    return aggregator


def arm_config(arm: str, seed: int, budget: Budget) -> Config:
    """The configuration that an arm is trained with."""
    method, changed = arm.split("-")[0] if arm != "default" else "tide", SHAPES.get(arm, {})
    train = {
        # Persona-Plug's own prefix is one instruction vector and one personal vector.
        "prefix_length": 2 if method == "pplug" else 8,
        "steps": budget.steps,
        "batch_size": budget.batch_size,
        "learning_rate": budget.learning_rate,
        "history": budget.history,
        "evaluate_every": max(1, budget.steps // 2),
        "evaluated": budget.evaluated,
        "patience": 100,
        "query_dropout": 0.1,
        # A control's histories say nothing of the labels, and a copy nothing without its history.
        "relabelled": 0 if arm in ("default", "tide-shuffled-users") else 0.5,
    }
    row = {"row_events": 32, "row_session": 8, "row_steps": 1, "row_rate": 0.05}
    return Config(
        seed=seed,
        personalizer=method,
        tide=TideConfig(**changed.get("tide", {})),
        pplug=PplugConfig(items=HISTORY),
        tapper=TapperConfig(items=HISTORY, time=arm != "tapper-no-time", row=arm != "tapper-no-user-row", **row),
        train=TrainConfig(**{**train, **changed.get("train", {})}),
    )


def arm_section(config: Config) -> dict[str, Any]:
    """The part of an arm's configuration that makes it: its training, and its own personalizer."""
    return config.model_dump(mode="json", include={"train", config.personalizer})


def bank_of(arm: str, trained: Aggregator, budget: Budget) -> Aggregator:
    """The trained aggregator with the arm's own bank: of no more items than training shows, or of as many as the papers keep.

    Training is the same with either: it never shows more items than the smaller holds.
    """
    if not arm.endswith(SHORT_BANK):
        return trained
    bank = copy.copy(trained)
    bank.config = bank.config.model_copy(update={"items": budget.history})
    bank.spec = replace(bank.spec, capacity=budget.history)
    return bank


def training_of(arm: str) -> str:
    """The arm whose training this one is judged with: states in other types, of fewer items or of strangers need none of their own."""
    return arm.removesuffix("-int8").removesuffix(SHORT_BANK).removesuffix("-swapped-users")


def variant(arm: str, examples: Examples, seed: int) -> Examples:
    """The examples as the arm gets them: all, without histories, or with a control's."""
    if arm == "default":
        return without_histories(examples)
    if arm in ("tide-shuffled-users", "tide-swapped-users"):
        return of_strangers(examples, seed)
    if arm == "tide-shuffled-dates":
        return ShuffledDates(**vars(examples))
    return examples
