"""tapper: TAP-PER (arXiv 2606.04547) under the prefix contract.

    s_j = MLP([q; h_j; q-h_j; q⊙h_j]) - λ_t·log(1 + Δdays) - λ_o·log(1 + Δorder)
    P_q = W · Σ softmax(s)_j h_j + b,    P = P_u + P_q                                  [L, d_llm]

``h_j`` sums the item's text and target, each through a projection of its own that starts at the identity; the newest item has order gap 1;
λ_t and λ_o are free in sign, as in the paper; its bridge LoRA is an option (``encoders/bridge.py``). ``P_u`` is a column of the state, in
units of ``P₀``. In training it is a row of a table; what a refresh stores is what gradient steps on the user's own events make of it, the
shared parts frozen ("Online-Emb"): so ``update`` runs the LLM, and the state belongs to that LLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from encoders import window
from encoders.adapter import QueryAdapter
from encoders.bank import Bank, there
from encoders.bridge import Bridge
from encoders.personalizer import MASKED, EventBatch, Head
from encoders.prompts import render
from schemas.config import TapperConfig
from schemas.errors import CompatibilityError
from schemas.states import Column, StateBatch, StateSpec

if TYPE_CHECKING:
    from encoders.llm import FrozenLLM

DAY = 86_400
#: Events of one pass through the LLM, and items of a history that a pass reads.
PASS, READ = 64, 128


class TapperBank(Bank):
    """The bank, and ``P_u`` unless the configuration leaves it out.

    Raises:
        CompatibilityError: a state with a row needs to know its LLM, so nothing can be built before training.
    """

    name = "tapper"
    config: TapperConfig

    def __init__(self, config: TapperConfig, text_dim: int, prefix_shape: tuple[int, int] | None = None) -> None:
        super().__init__(config, text_dim, prefix_shape, timed=config.time)
        self.needs_llm = config.row
        self.head: TapperHead | None = None
        self.adapter: nn.Module | None = None
        self.llm: FrozenLLM | None = None
        self.described: Mapping[str, Any] = {}
        if config.row:
            if prefix_shape is None:
                raise CompatibilityError("tapper's states belong to an LLM, and none was trained for yet", mend="tapstate train")
            row = Column(name="user_row", dtype="float32", shape=prefix_shape, bundle_dtype="float16")
            self.spec = StateSpec((row, *self.spec.columns), self.spec.capacity)

    def configuration(self) -> Mapping[str, Any]:
        found = dict(super().configuration())
        if self.config.row:
            found.update(prefix_shape=self.prefix_shape, llm=dict(self.described))
        if self.head is not None:
            found["head"] = dict(self.head.configuration())
        return found

    def restore(self, configuration: Mapping[str, Any]) -> None:
        self.described = configuration.get("llm", {})
        if "head" in configuration:
            head = configuration["head"]
            neutral = torch.zeros(head["length"], head["llm_dim"])
            self.head = TapperHead(self.config, head["query_dim"], head["llm_dim"], neutral, head["rms"], head["neutral_frozen"])
            self.head.restore(head)
            self.adapter = QueryAdapter(head["query_dim"])

    def settle(self, head: Head, adapter: nn.Module, llm: Mapping[str, Any]) -> None:
        if self.config.row:
            assert isinstance(head, TapperHead)
            self.head, self.adapter, self.described = head, adapter, llm

    def attach(self, llm: FrozenLLM) -> None:
        """The LLM through which rows are fitted; it gets the head's bridge for good.

        Raises:
            CompatibilityError: not the LLM that the rows belong to.
        """
        if llm.fingerprint != self.described.get("fingerprint"):
            wanted = str(self.described.get("fingerprint"))
            raise CompatibilityError(
                f"tapper's rows belong to LLM {wanted[:12]}, this is {llm.fingerprint[:12]}",
                where=llm.config.model,
                mend="tapstate train with this LLM (a new line), or put the old one back",
            )
        self.llm = llm
        if self.head is not None and self.head.bridge:
            self.head.bridge.put(llm)

    def forward(self, users: int, events: EventBatch) -> dict[str, Tensor]:
        found = super().forward(users, events)
        if self.config.row and self.prefix_shape:
            found["user_row"] = torch.zeros(users, *self.prefix_shape)
        return found

    def update(self, states: StateBatch, events: EventBatch) -> StateBatch:
        merged = super().update(states, events)
        if not self.config.row:
            return merged
        return StateBatch({**merged.columns, "user_row": self._fit_rows(states, events)}, merged.offsets)

    def _fit_rows(self, states: StateBatch, events: EventBatch) -> npt.NDArray[np.float32]:
        """``P_u`` after the new events: for each session of a user's events, oldest first, a few steps of fixed length downhill.

        Each event is asked as a nightly store would have been: with the items known to the state from before its day.
        """
        rows = torch.from_numpy(np.array(states.columns["user_row"], np.float32))
        targets = events.targets if events.targets is not None else [None] * len(events)
        asked = np.flatnonzero([target is not None for target in targets])
        if not len(asked):
            return rows.numpy()
        if self.llm is None or self.head is None:
            raise CompatibilityError("tapper's rows are fitted through its LLM, and it is not attached", mend="tapstate train")
        asked = asked[window.latest(events.user[asked], events.ts[asked], events.key[asked], self.config.row_events)]
        user = events.user[asked]
        session = (np.arange(len(asked)) - np.searchsorted(user, user)) // self.config.row_session
        items = _Items(states, events)
        with torch.enable_grad():
            for number in range(int(session.max()) + 1):
                some = asked[session == number]
                for _ in range(self.config.row_steps):
                    gradient = torch.zeros_like(rows)
                    for start in range(0, len(some), PASS):
                        part = some[start : start + PASS]
                        leaf = rows[events.user[part]].requires_grad_()
                        loss = self._loss(leaf, items.before(part), events, part)
                        gradient.index_add_(0, torch.from_numpy(events.user[part]), torch.autograd.grad(loss.sum(), leaf)[0].cpu())
                    size = gradient.square().mean((1, 2), keepdim=True).sqrt()
                    rows -= self.config.row_rate * torch.where(size > 0, gradient / size.clamp(min=1e-30), 0.0)
        return rows.numpy()

    def _loss(self, row: Tensor, histories: EventBatch, events: EventBatch, part: npt.NDArray[np.int64]) -> Tensor:
        texts, targets, tasks = events.texts, events.targets, events.tasks or [None] * len(events)
        assert self.llm
        assert self.head is not None
        assert self.adapter is not None
        assert texts is not None
        assert targets is not None
        device = next(self.head.parameters()).device
        state = {name: x.to(device) for name, x in Bank.forward(self, len(part), histories).items()}
        query = self.adapter(torch.from_numpy(events.text[part]).float().to(device))
        task = self.head.instructions.numbers([tasks[i] for i in part]).to(device) if self.head.instructions else None
        prefix = self.head(query, torch.from_numpy(events.ts[part]).to(device), {**state, "user_row": row.to(device)}, task)
        prompts = [render(self.llm.config.prompt_of(tasks[i]), texts[i]) for i in part]
        return self.llm.loss(prefix, prompts, [str(targets[i]) for i in part])[0]


class _Items:
    """Items of old states and new events together, in the order (user, time, key)."""

    def __init__(self, states: StateBatch, events: EventBatch) -> None:
        old = np.repeat(np.arange(len(states)), np.diff(states.offsets))
        self.user = np.concatenate([old, events.user])
        self.ts = np.concatenate([states.columns["item_time"], events.ts])
        self.key = np.concatenate([states.columns["item_key"], events.key])
        self.order = np.lexsort((self.key, self.ts, self.user))
        self.sorted_user, self.sorted_ts = self.user[self.order], self.ts[self.order]
        self.states, self.events, self.size = states, events, len(old)

    def before(self, part: npt.NDArray[np.int64]) -> EventBatch:
        """The last ``READ`` items of each event's user from before the event's day, as the histories of ``len(part)`` users."""
        rows, owner = [], []
        for place, event in enumerate(part):
            low = np.searchsorted(self.sorted_user, self.events.user[event], "left")
            high = np.searchsorted(self.sorted_user, self.events.user[event], "right")
            stop = low + np.searchsorted(self.sorted_ts[low:high], self.events.ts[event] // DAY * DAY, "left")
            found = self.order[max(low, stop - READ) : stop]
            rows.append(found)
            owner.append(np.full(len(found), place))
        chosen = np.concatenate(rows)
        old = chosen < self.size
        vectors = []
        for name, new in (("item_text", self.events.text), ("item_target", self.events.target)):
            joined = np.empty((len(chosen), new.shape[1]), np.float16)
            joined[old] = self.states.columns[name][chosen[old]]
            joined[~old] = new[chosen[~old] - self.size]
            vectors.append(joined)
        nothing = np.full(len(chosen), np.nan, np.float32)
        return EventBatch(np.concatenate(owner), self.ts[chosen], self.key[chosen], vectors[0], vectors[1], nothing)


class TapperHead(Head):
    """Time-aware attention over the bank, plus the user's row."""

    name = "tapper"
    config: TapperConfig

    def __init__(self, config: TapperConfig, query_dim: int, llm_dim: int, neutral: Tensor, rms: float, neutral_frozen: bool) -> None:
        super().__init__(config, query_dim, llm_dim, neutral, rms, neutral_frozen)
        self.from_text = nn.Linear(query_dim, query_dim, bias=False)
        self.from_target = nn.Linear(query_dim, query_dim, bias=False)
        for layer in (self.from_text, self.from_target):
            nn.init.eye_(layer.weight)
        self.masked_query = nn.Parameter(torch.zeros(query_dim))
        self.features, self.relevance = nn.Linear(4 * query_dim, query_dim), nn.Linear(query_dim, 1)
        if config.time:
            self.time_penalty, self.order_penalty = nn.Parameter(0.02 * torch.randn(())), nn.Parameter(0.02 * torch.randn(()))
        self.out = nn.Linear(query_dim, self.length * llm_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.table: nn.Embedding | None = None

    def learn_bridge(self, llm: FrozenLLM) -> None:
        if self.config.bridge:
            self.bridge = Bridge.for_llm(llm, self.config.bridge)

    def learn_rows(self, users: int) -> None:
        if self.config.row:
            self.table = nn.Embedding(users, self.length * self.llm_dim)
            nn.init.zeros_(self.table.weight)

    def training_state(self, user: npt.NDArray[np.int64], there: npt.NDArray[np.bool_]) -> dict[str, Tensor]:
        if self.table is None:
            return {}
        device = self.table.weight.device
        known = there & (user >= 0)
        row = self.table(torch.from_numpy(np.maximum(user, 0)).to(device)) * torch.from_numpy(known).to(device)[:, None]
        return {"user_row": row.view(-1, self.length, self.llm_dim)}

    def forget_rows(self) -> None:
        self.table = None

    def delta(self, query: Tensor | None, now: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        text, users = state["item_text"], now.shape[0]
        q = self.masked_query.expand(users, -1) if query is None else query
        items = self.from_text(text) + self.from_target(state["item_target"])
        held = there(text)
        score = self._relevance(q[:, None], items)
        if self.config.time:
            days = (torch.clamp(now[:, None] - state["item_time"], min=0).double() / DAY).float()
            order = held.long().sum(1, keepdim=True) - torch.cumsum(held.long(), 1) + 1
            score = score - self.time_penalty * torch.log1p(days) - self.order_penalty * torch.log1p(order.float())
        weight = torch.softmax(torch.where(held, score, MASKED), 1) * held
        delta = self.out((weight[:, :, None] * items).sum(1)).view(users, self.length, self.llm_dim)
        return delta + state["user_row"] if self.config.row else delta

    def _relevance(self, q: Tensor, items: Tensor) -> Tensor:
        """``MLP([q; h; q-h; q⊙h])``, ``[n, i]``: the first layer term by term, which halves the arithmetic."""
        of_q, of_item, of_gap, of_product = self.features.weight.chunk(4, 1)
        hidden = q @ (of_q + of_gap).T + items @ (of_item - of_gap).T + (q * items) @ of_product.T + self.features.bias
        return self.relevance(nn.functional.gelu(hidden)).squeeze(-1)
