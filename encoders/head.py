"""tide's fusion head: the query attends over slots and window, and the result moves the neutral prefix (Head says how).

Beside the learned path, the window's targets are said to the LLM in its own embeddings: ``ΔP_l = MLP(…)_l + n_l·N·Σ a_i·h_i``, ``a`` the
window's attention, ``n_l`` a gain of each prefix vector. N is fitted to the targets' embeddings before the first step, so a label that
training users hardly show is said as well as a common one.

A user without events gets the same path with everything masked, where both attentions fall on their learned null entry.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from encoders.personalizer import MASKED, Aggregator, Head
from encoders.tide import DAY, Tide
from schemas.config import TideConfig

#: Of the mean square of the codes; keeps many targets in few dimensions from being told apart by noise.
RIDGE = 1e-3


class TideHead(Head):
    """Slots and window to a prefix; of ``config``, K and D of the aggregator."""

    name = "tide"
    config: TideConfig

    def __init__(self, config: TideConfig, query_dim: int, llm_dim: int, neutral: Tensor, rms: float, neutral_frozen: bool) -> None:
        super().__init__(config, query_dim, llm_dim, neutral, rms, neutral_frozen)
        k, d = config.slots, config.dim
        width = 2 * d
        self.query = nn.Linear(query_dim, d)
        self.masked_query = nn.Parameter(torch.zeros(d))
        self.slot_features = nn.Linear(d + 2, width)
        self.slot_identity = nn.Parameter(0.02 * torch.randn(k, width))
        self.slot_key, self.slot_value = nn.Linear(width, d), nn.Linear(width, width)
        self.slot_query = nn.Linear(d, d)
        self.slot_null = nn.Parameter(torch.zeros(width))
        self.relevance = nn.Sequential(nn.Linear(4 * d, d), nn.GELU(), nn.Linear(d, 1))
        self.likeness = nn.Parameter(torch.ones(()))
        self.time_decay, self.order_decay = nn.Parameter(torch.tensor(-2.0)), nn.Parameter(torch.tensor(-2.0))
        self.item_value = nn.Linear(d, width)
        self.item_null = nn.Parameter(torch.zeros(width))
        self.item_null_score = nn.Parameter(torch.zeros(()))
        joined = d + 2 * width
        self.mix = nn.Sequential(nn.LayerNorm(joined), nn.Linear(joined, 2 * width), nn.GELU(), nn.Linear(2 * width, joined))
        self.out = nn.Linear(joined, self.length * llm_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.naming, self.naming_gain = nn.Linear(d, llm_dim, bias=False), nn.Parameter(torch.ones(self.length))
        nn.init.zeros_(self.naming.weight)
        self.slot_decay = nn.Buffer(torch.zeros(k))

    def align(self, aggregator: Aggregator) -> None:
        """Start with queries projected as the texts of items are, so that like meets like from the first step."""
        assert isinstance(aggregator, Tide)
        with torch.no_grad():
            self.query.weight.copy_(aggregator.text_part(aggregator.from_text.weight.T).T)
            self.query.bias.copy_(aggregator.text_part(aggregator.from_text.bias))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Heads of 0.1.0 say no targets: what they lack stays at zero."""
        if not any(name.startswith(f"{prefix}naming") for name in state_dict):
            state_dict[f"{prefix}naming.weight"] = torch.zeros_like(self.naming.weight)
            state_dict[f"{prefix}naming_gain"] = torch.ones_like(self.naming_gain)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def learn_names(self, aggregator: Aggregator, targets: Tensor, embeddings: Tensor) -> None:
        """Fit ``N`` by ridge regression from a target's part of an item code to its embedding; an item without a target says nothing."""
        assert isinstance(aggregator, Tide)
        if not aggregator.config.target_share:
            return
        x, y = aggregator.target_part(aggregator.from_target(targets)).double(), (embeddings / self.rms).double()
        square = x.T @ x
        square.diagonal().add_(RIDGE * square.diagonal().mean() + 1e-12)
        self.naming.weight.copy_(torch.linalg.solve(square, x.T @ y).T)

    def bind(self, aggregator: Aggregator) -> None:
        """Take the aggregator's half-lives, which the slots' evidence at ``now`` depends on."""
        assert isinstance(aggregator, Tide)
        self.slot_decay.copy_(aggregator.decay().detach() * DAY)

    def delta(self, query: Tensor | None, now: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        users = now.shape[0]
        q = self.masked_query.expand(users, -1) if query is None else self.query(query)
        read, named = self._window(q, now, state)
        joined = torch.cat([q, self._slots(q, now, state), read], -1)
        # Scaled down, so that one step of Adam moves a prefix by hundredths of its rms, whatever the width.
        delta = self.out((joined + self.mix(joined)) / joined.shape[-1] ** 0.5).view(users, self.length, self.llm_dim)
        return delta + self.naming_gain[:, None] * named[:, None]

    def _slots(self, q: Tensor, now: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Attention over the slots; each shows the evidence left by now, ``clamp(m - λ·age, -20, 20)``, and log(1 + age)."""
        mass = state["slot_mass"]
        age = torch.clamp(now - state["t_ref"], min=0, max=2**40).double() / DAY
        age = age.float()[:, None]
        evidence = torch.clamp(mass - self.slot_decay * age, -20, 20)
        seen = torch.stack([evidence / 20, torch.log1p(age).expand_as(mass) / 8], -1)
        features = torch.tanh(self.slot_features(torch.cat([state["slot_sum"], seen], -1)) + self.slot_identity)
        score = (self.slot_key(features) * self.slot_query(q)[:, None]).sum(-1) / self.config.dim**0.5
        score = torch.where(mass > -1e30, score, MASKED)
        weight, null = _attention(score, torch.zeros_like(score[:, :1]))
        return (weight * self.slot_value(features)).sum(1) + null * self.slot_null

    def _window(self, q: Tensor, now: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the window holds for the query ``[n, 2·D]``, and its targets as the LLM embeds them ``[n, d_llm]``, by TAP-PER's
        attention with a dot product beside its MLP, so that it starts at likeness and not at random:

        ``MLP([q; h; q-h; q⊙h]) + γ·q·h/√D - λ_t·log(1 + Δdays) - λ_o·log(1 + Δorder)``, λ = softplus, γ from 1.
        """
        scale = state["window_scale"]
        items = state["window_code"].float() * scale[:, :, None]
        there = scale > 0
        wide = q[:, None].expand_as(items)
        score = self.relevance(torch.cat([wide, items, wide - items, wide * items], -1)).squeeze(-1)
        score = score + self.likeness * (wide * items).sum(-1) / self.config.dim**0.5
        days = (torch.clamp(now[:, None] - state["window_time"], min=0).double() / DAY).float()
        order = there.long().sum(1, keepdim=True) - torch.cumsum(there.long(), 1) + 1
        bias = nn.functional.softplus(self.time_decay) * torch.log1p(days)
        bias = bias + nn.functional.softplus(self.order_decay) * torch.log1p(order.float())
        score = torch.where(there, score - bias, MASKED)
        weight, null = _attention(score, self.item_null_score.expand(len(q), 1))
        read = (weight * self.item_value(items)).sum(1) + null * self.item_null
        return read, self.naming((weight * items).sum(1))


def _attention(score: Tensor, null_score: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over entries and a null entry, so that it is finite when all is masked: weights ``[n, i, 1]`` and the null's ``[n, 1]``."""
    weight = torch.softmax(torch.cat([score, null_score], 1), 1)
    return weight[:, :-1, None], weight[:, -1:]
