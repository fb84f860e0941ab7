"""What every personalizer is: an aggregator (events to states) and a head (query and state to a prefix).

The two halves are saved and hashed apart: all that shapes a state, the text encoder included, is in the aggregator's
hash; the head names the aggregator and the LLM it fits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from schemas.config import Config
from schemas.states import StateBatch, StateSpec


@dataclass(frozen=True)
class EventBatch:
    """Events of some users as arrays; the rows of a user need not be adjacent.

    Attributes:
        user: int64 ``[e]``, index into the states' users.
        ts: int64 ``[e]``, seconds since 1970.
        key: int64 ``[e]``, event keys.
        text: float16 ``[e, dim]``, the encoder's vectors of the texts.
        target: float16 ``[e, dim]``, of the targets; rows of zeros where there is none.
        value: float32 ``[e]``; NaN where there is none.
    """

    user: npt.NDArray[np.int64]
    ts: npt.NDArray[np.int64]
    key: npt.NDArray[np.int64]
    text: npt.NDArray[np.float16]
    target: npt.NDArray[np.float16]
    value: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user)


class Aggregator(nn.Module):
    """Events to states. Subclasses say which columns they keep and how two sets of events merge."""

    spec: StateSpec

    def configuration(self) -> Mapping[str, Any]:
        """What rebuilds the module, beside its weights."""
        raise NotImplementedError

    def fit_scales(self, events: EventBatch) -> None:
        """Set what depends on the data's scale (before training)."""

    def update(self, states: StateBatch, events: EventBatch) -> StateBatch:
        """States of the same users with the events added; a build is an update of ``StateBatch.empty``."""
        raise NotImplementedError

    def forward(self, users: int, events: EventBatch) -> dict[str, Tensor]:
        """The head's state inputs built from the events alone, differentiable: what ``update`` computes, for training."""
        raise NotImplementedError


class Head(nn.Module):
    """(query, now, state columns) to a prefix ``[n, L, d_llm]``; one declared input per state column."""

    def align(self, aggregator: Aggregator) -> None:
        """Start from what the aggregator starts from (before training)."""

    def bind(self, aggregator: Aggregator) -> None:
        """Take over what the head must know of its aggregator (before every training step)."""

    def configuration(self) -> Mapping[str, Any]:
        """What rebuilds the module, beside its weights."""
        raise NotImplementedError

    def neutral_prefix(self) -> Tensor:
        """``rms·g·P₀``, ``[L, d_llm]``: what a prefix deviates from."""
        raise NotImplementedError

    def forward(self, query: Tensor | None, now: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Prefixes; ``query`` None masks the query (the static prefix)."""
        raise NotImplementedError


def new_aggregator(config: Config, text_dim: int) -> Aggregator:
    """The configured personalizer's aggregator with weights drawn from the configured seed."""
    from encoders.tide import Tide

    kinds = {"tide": lambda: Tide(config.tide, text_dim)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return kinds[config.personalizer]()
