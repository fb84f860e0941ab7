"""What every personalizer is: an aggregator (events to states) and a head (query and state to a prefix).

The two halves are saved and hashed apart: all that shapes a state, the text encoder included, is in the aggregator's
hash; the head names the aggregator and the LLM it fits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from encoders.bridge import Bridge
from encoders.instructions import Instructions
from schemas.config import Section
from schemas.states import StateBatch, StateSpec

#: ``ΔP``'s cap, in units of ``P₀``'s rms.
CAP = 3.0
#: Score of what is not there, before a softmax.
MASKED = -1e4


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
        texts, targets, tasks: the texts themselves, and names of tasks, for an aggregator that says ``needs_llm``; None as a target or a
            task where there is none.
    """

    user: npt.NDArray[np.int64]
    ts: npt.NDArray[np.int64]
    key: npt.NDArray[np.int64]
    text: npt.NDArray[np.float16]
    target: npt.NDArray[np.float16]
    value: npt.NDArray[np.float32]
    texts: Sequence[str] | None = None
    targets: Sequence[str | None] | None = None
    tasks: Sequence[str | None] | None = None

    def __len__(self) -> int:
        return len(self.user)


class Aggregator(nn.Module):
    """Events to states. Subclasses say which columns they keep and how two sets of events merge.

    Args:
        config: the personalizer's section of the configuration.
        text_dim: width of the text encoder's vectors.
        prefix_shape: ``(L, d_llm)``; what only a state that belongs to one LLM needs.
    """

    name: ClassVar[str]
    #: Whether ``update`` needs an attached LLM and ``EventBatch.texts``, ``targets`` and ``tasks``.
    needs_llm = False
    #: Whether it also learns from copies of users under exchanged labels (``encoders/relabelling.py``); the papers' methods do not.
    relabelled = False
    #: Description of the LLM that the states belong to, if they belong to one.
    described: Mapping[str, Any] = MappingProxyType({})
    spec: StateSpec
    text_dim: int

    def __init__(self, config: Section, text_dim: int, prefix_shape: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.config, self.text_dim, self.prefix_shape = config, text_dim, prefix_shape

    def configuration(self) -> Mapping[str, Any]:
        """What rebuilds the module, beside its weights."""
        return {"personalizer": self.name, self.name: self.config.model_dump(), "text_dim": self.text_dim}

    def fit_scales(self, events: EventBatch) -> None:
        """Set what depends on the data's scale (before training)."""

    def settle(self, head: "Head", adapter: nn.Module, llm: Mapping[str, Any]) -> None:
        """Keep what ``update`` needs of the trained head, its query adapter and its LLM's description (after training)."""

    def restore(self, configuration: Mapping[str, Any]) -> None:
        """Make the parts that ``settle`` kept, of the shape that ``configuration`` describes (before weights are loaded)."""

    def attach(self, llm: Any) -> None:
        """Take the FrozenLLM that ``update`` needs."""

    def update(self, states: StateBatch, events: EventBatch) -> StateBatch:
        """States of the same users with the events added; a build is an update of ``StateBatch.empty``."""
        raise NotImplementedError

    def forward(self, users: int, events: EventBatch) -> dict[str, Tensor]:
        """The head's state inputs built from the events alone, differentiable: what ``update`` computes, for training."""
        raise NotImplementedError


class Head(nn.Module):
    """(query, now, state columns) to a prefix ``[n, L, d_llm]``; one declared input per state column.

    The prefix contract, for every personalizer: ``P = rms · g · (P₀ + I + ΔP)``. ``g`` starts at 1, ``ΔP`` at zero, and each vector of
    ``ΔP`` is capped at an rms of 3. A user without events takes the same path with everything masked. tide's ΔP starts at zero for such
    a user only: ``learn_names`` has it say the targets of the others. ``I`` is the instruction of the query's task, from zero on; none
    where training knew no tasks.

    Subclasses say ``delta``.

    Args:
        config: the personalizer's section of the configuration.
        query_dim: width of the query embedding.
        llm_dim: ``d_llm``.
        neutral: ``P₀``, float32 ``[L, d_llm]``, of rms 1; trained along unless ``neutral_frozen``.
        rms: rms of the LLM's input embeddings over token occurrences.
    """

    name: ClassVar[str]

    def __init__(self, config: Section, query_dim: int, llm_dim: int, neutral: Tensor, rms: float, neutral_frozen: bool) -> None:
        super().__init__()
        self.config, self.query_dim, self.llm_dim = config, query_dim, llm_dim
        self.rms, self.neutral_frozen = rms, neutral_frozen
        self.length = neutral.shape[0]
        self.neutral = nn.Parameter(neutral.clone(), requires_grad=not neutral_frozen)
        self.gain = nn.Parameter(torch.ones(()))
        self.bridge: Bridge | None = None
        self.instructions: Instructions | None = None

    def align(self, aggregator: Aggregator) -> None:
        """Start from what the aggregator starts from (before training)."""

    def learn_names(self, aggregator: Aggregator, targets: Tensor, embeddings: Tensor) -> None:
        """Start with a way to say targets to the LLM (before training); for a method that has one.

        Args:
            targets: float32 ``[t, text_dim]``, the encoder's vectors of distinct targets.
            embeddings: float32 ``[t, d_llm]``, each target's mean token embedding.
        """

    def bind(self, aggregator: Aggregator) -> None:
        """Take over what the head must know of its aggregator (before every training step)."""

    def learn_bridge(self, llm: Any) -> None:
        """Begin a LoRA on the FrozenLLM (before training); for a method that has one."""

    def learn_tasks(self, tasks: Sequence[str]) -> None:
        """Begin an instruction for each task (before training); none where there are no tasks."""
        self.instructions = Instructions(tasks, self.length, self.llm_dim) if tasks else None

    def learn_rows(self, users: int) -> None:
        """Begin training over ``users`` users; for a method with learned rows."""

    def training_state(self, user: npt.NDArray[np.int64], there: npt.NDArray[np.bool_]) -> dict[str, Tensor]:
        """State columns that are learned in training and not made from events, for users ``user``; empty where not ``there``."""
        return {}

    def forget_rows(self) -> None:
        """Training is over: drop what was learned for single users."""

    def restore(self, configuration: Mapping[str, Any]) -> None:
        """Make the parts that training added, of the shape that ``configuration`` describes (before weights are loaded)."""
        if "bridge" in configuration:
            self.bridge = Bridge(**configuration["bridge"])
        self.learn_tasks(configuration.get("tasks", ()))

    def configuration(self) -> Mapping[str, Any]:
        """What rebuilds the module, beside its weights."""
        return {
            **({"bridge": self.bridge.configuration()} if self.bridge else {}),
            **({"tasks": list(self.instructions.tasks)} if self.instructions else {}),
            "personalizer": self.name,
            self.name: self.config.model_dump(),
            "query_dim": self.query_dim,
            "llm_dim": self.llm_dim,
            "length": self.length,
            "rms": self.rms,
            "neutral_frozen": self.neutral_frozen,
        }

    def neutral_prefix(self, task: Tensor | None = None) -> Tensor:
        """What a prefix deviates from: ``rms·g·P₀`` ``[L, d_llm]``, or of tasks int64 ``[n]``, -1 for none, ``rms·g·(P₀ + I)`` of each."""
        neutral = self.neutral if task is None or self.instructions is None else self.neutral + self.instructions(task)
        return self.rms * self.gain * neutral

    def contract(self, delta: Tensor, task: Tensor | None = None) -> Tensor:
        """The prefix of ``ΔP`` ``[n, L, d_llm]``."""
        size = torch.sqrt(delta.square().mean(-1, keepdim=True) + 1e-12)
        return self.neutral_prefix(task) + self.rms * self.gain * delta * torch.clamp(CAP / size, max=1.0)

    def forward(self, query: Tensor | None, now: Tensor, state: Mapping[str, Tensor], task: Tensor | None = None) -> Tensor:
        """Prefixes float32 ``[n, L, d_llm]``.

        Args:
            query: float32 ``[n, query_dim]``; None masks the query (the static prefix).
            now: int64 ``[n]``, seconds since 1970.
            task: int64 ``[n]``, numbers of ``instructions.tasks``, -1 for none; None is none for all.
        """
        return self.contract(self.delta(query, now, state), task)

    def delta(self, query: Tensor | None, now: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """``ΔP`` ``[n, L, d_llm]``, before its cap."""
        raise NotImplementedError
