"""tide: a mergeable user state, so that a night costs its new events and nothing else.

Item code of event i, from the encoder's vectors of text and target, its value and its calendar:

    h_i = [W_x·e(text_i) + w_v·value_i + W_c·calendar(ts_i) ; W_y·e(target_i)]        [D]

The target has a part of the code to itself: the head says it back to the LLM (TideHead.learn_names), and a text in the same place would
drown it.

Long memory: K slots with logits ``f_k(h) = 8·tanh(g_k(h)/8)`` and values ``v_k(h)`` (encoders/slots.py), each with a learned
half-life; the last slot never decays. Short memory: the last M item codes (encoders/window.py).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from encoders import slots, window
from encoders.personalizer import Aggregator, EventBatch
from encoders.slots import Slots
from encoders.window import Window
from schemas.config import TideConfig
from schemas.states import Column, StateBatch, StateSpec

DAY = 86_400.0
#: Rows of one matrix product. Every product has this shape, so a code does not depend on who else is in the batch.
BLOCK = 2048
USERS = 256


class Tide(Aggregator):
    """Slots and recent window.

    Args:
        config: K, D, M and the initial half-lives.
        text_dim: width of the text encoder's vectors.
    """

    name = "tide"
    relabelled = True
    config: TideConfig

    def __init__(self, config: TideConfig, text_dim: int, prefix_shape: tuple[int, int] | None = None) -> None:
        super().__init__(config, text_dim, prefix_shape)
        k, d = config.slots, config.dim
        self.spec = StateSpec(
            capacity=config.window,
            columns=(
                Column(name="slot_sum", dtype="float32", shape=(k, d), bundle_dtype="float16"),
                Column(name="slot_mass", dtype="float64", shape=(k,), bundle_dtype="float32", empty=float("-inf")),
                Column(name="t_ref", dtype="int64", empty=slots.NEVER),
                Column(name="window_code", dtype="int8", shape=(d,), per="item"),
                Column(name="window_scale", dtype="float32", per="item"),
                Column(name="window_time", dtype="int64", per="item"),
                Column(name="window_key", dtype="int64", per="item", head=False),
            ),
        )
        own = max(1, round(d * config.target_share)) if config.target_share else 0
        self.from_text = nn.Linear(text_dim, d - own)
        self.from_target = nn.Linear(text_dim, own or d, bias=False)
        self.from_value = nn.Linear(1, d - own, bias=False)
        self.from_calendar = nn.Linear(6, d - own, bias=False)
        self.hidden = nn.Linear(d, config.hidden)
        self.score = nn.Linear(config.hidden, k)
        self.value = nn.Linear(config.hidden, k * d)
        for layer in (self.from_text, self.from_target):
            # Unit vectors have elements of size dim^-1/2; this makes codes of order one.
            nn.init.normal_(layer.weight, std=1.0)
        nn.init.normal_(self.from_calendar.weight, std=0.1)
        self.value_mean, self.value_std = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))
        half_lives = torch.logspace(np.log10(config.half_life_hours / 24), np.log10(config.half_life_days), k - 1 if k > 1 else 0)
        # softplus is inverted by log(expm1(x)).
        self.raw_decay = nn.Parameter(torch.log(torch.expm1(np.log(2) / half_lives.double())).float())

    def fit_scales(self, events: EventBatch) -> None:
        """Centre and scale of ``value``, from the training events."""
        values = events.value[np.isfinite(events.value)]
        if len(values):
            self.value_mean.fill_(float(values.mean()))
            self.value_std.fill_(float(max(values.std(), 1e-6)))

    def decay(self) -> Tensor:
        """``λ``, float64 ``[K]``, per second; the last is zero."""
        rates = nn.functional.softplus(self.raw_decay.double()) / DAY
        return torch.cat([rates, rates.new_zeros(1)])

    def item_codes(self, text: Tensor, target: Tensor, value: Tensor, ts: Tensor) -> Tensor:
        """``h``, float32 ``[e, D]``."""
        given = torch.isfinite(value)
        scaled = torch.where(given, (torch.nan_to_num(value) - self.value_mean) / self.value_std, 0.0)
        # Summed, not a matrix product: with so few columns, a row's bits would depend on its place among the rows (seen with MKL).
        codes = self.from_text(text) + self.from_value(scaled[:, None])
        for phase, weight in zip(calendar(ts).T, self.from_calendar.weight.T, strict=True):
            codes = torch.addcmul(codes, phase[:, None], weight)
        return self.text_part(codes) + self.target_part(self.from_target(target))

    def text_part(self, x: Tensor) -> Tensor:
        """``[..., D - own]`` in its place in codes ``[..., D]``, zeros elsewhere."""
        return nn.functional.pad(x, (0, self.config.dim - x.shape[-1]))

    def target_part(self, x: Tensor) -> Tensor:
        """``[..., own]`` in its place in codes ``[..., D]``, zeros elsewhere."""
        return nn.functional.pad(x, (self.config.dim - x.shape[-1], 0))

    def slot_inputs(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """``f`` ``[e, K]`` and ``v`` ``[e, K, D]`` of item codes."""
        score, hidden = self._scores(codes)
        return score, self.value(hidden).view(-1, self.config.slots, self.config.dim)

    def _scores(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        hidden = nn.functional.gelu(self.hidden(codes))
        return 8 * torch.tanh(self.score(hidden) / 8), hidden

    def _values(self, hidden: Tensor) -> Tensor:
        """``v`` of averages of the hidden layer, ``[n, K, H]`` to float64 ``[n, K, D]``, in products of one shape."""
        k, d = self.config.slots, self.config.dim
        weight = self.value.weight.view(k, d, -1).transpose(1, 2).cpu()
        bias, parts = self.value.bias.view(k, 1, d).cpu(), []
        for at in range(0, len(hidden), USERS):
            block = hidden[at : at + USERS].transpose(0, 1)
            padded = nn.functional.pad(block, (0, 0, 0, USERS - block.shape[1]))
            parts.append(torch.baddbmm(bias, padded, weight)[:, : block.shape[1]].transpose(0, 1).double())
        return torch.cat(parts)

    @torch.no_grad()
    def update(self, states: StateBatch, events: EventBatch) -> StateBatch:
        total, mass, t_ref = (torch.from_numpy(np.array(states.columns[name])) for name in ("slot_sum", "slot_mass", "t_ref"))
        # float64 until the update is done.
        merged = Slots(total.double(), mass, t_ref)
        old_items = Window(
            np.repeat(np.arange(len(states)), np.diff(states.offsets)),
            *(states.columns[f"window_{name}"] for name in ("code", "scale", "time", "key")),
        )
        order = np.lexsort((events.key, events.ts, events.user))
        recent, items = window.last_of_sorted(events.user[order], self.config.window), []
        decay = self.decay().cpu()
        for at, rows, codes, score, hidden in self._blocks(events, order):
            owner, ts = events.user[rows], events.ts[rows]
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
            average, mass, t_ref = slots.average(starts, score, hidden, ts, decay)
            some = torch.from_numpy(owner[starts])
            before = Slots(merged.total[some], merged.mass[some], merged.t_ref[some])
            after = slots.merge(before, Slots(self._values(average), mass, t_ref), decay)
            merged.total[some], merged.mass[some], merged.t_ref[some] = after.total, after.mass, after.t_ref
            picked = recent[at : at + len(rows)]
            code, scale = window.quantize(codes[torch.from_numpy(picked)])
            items.append(Window(owner[picked], code.numpy(), scale.numpy(), ts[picked], events.key[rows][picked]))
        every = Window(*(np.concatenate([getattr(w, f) for w in [old_items, *items]]) for f in ("user", "code", "scale", "time", "key")))
        every = every.take(window.latest(every.user, every.time, every.key, self.config.window))
        columns = {
            "slot_sum": merged.total.float().numpy(),
            "slot_mass": merged.mass.numpy(),
            "t_ref": merged.t_ref.numpy(),
            "window_code": every.code,
            "window_scale": every.scale,
            "window_time": every.time,
            "window_key": every.key,
        }
        return StateBatch(columns, np.searchsorted(every.user, np.arange(len(states) + 1)).astype(np.int64))

    def _blocks(
        self, events: EventBatch, order: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, npt.NDArray[np.int64], Tensor, Tensor, Tensor]]:
        """A few blocks of rows at a time: their place in ``order`` (by user, ts, key), the rows, codes, scores and hidden layer.

        The tensors are good until the next turn.

        A user with more rows than that is cut as if he were alone, others are not cut: no user's sums depend on who else is there.
        """
        most = 8 * BLOCK
        owner = events.user[order]
        cuts = np.flatnonzero((np.arange(len(order)) - np.searchsorted(owner, owner)) % most == 0)
        cuts, start = np.append(cuts, len(order)), 0
        device = self.from_text.weight.device
        widths = (self.config.dim, self.config.slots, self.config.hidden)
        # Filled again and again: fresh pages cost as much as the arithmetic.
        kept = [torch.empty(min(len(order), most) + BLOCK, width) for width in widths]
        while start < len(order):
            stop = int(cuts[np.searchsorted(cuts, start + most, side="right") - 1])
            rows = order[start:stop]
            for at in range(0, len(rows), BLOCK):
                block = rows[at : at + BLOCK]
                padded = block if len(block) == BLOCK else np.concatenate([block, np.full(BLOCK - len(block), block[-1])])
                codes = self.item_codes(*(x.to(device) for x in _tensors(events, padded)))
                for whole, part in zip(kept, (codes, *self._scores(codes)), strict=True):
                    whole[at : at + BLOCK] = part
            codes, score, hidden = (whole[: len(rows)] for whole in kept)
            yield start, rows, codes, score, hidden
            start = stop

    @torch.no_grad()
    def attention(self, events: EventBatch) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """How much each of one user's events weighs in each slot, float64 ``[e, K]``, columns summing to one; and ``S``, ``[K, D]``.

        Against the latest event's time; by the form of the decay, any other gives the same weights.
        """
        codes = self.item_codes(*_tensors(events, np.arange(len(events))))
        score, value = self.slot_inputs(codes)
        age = torch.from_numpy(events.ts.max() - events.ts).double()
        weight = torch.softmax(score.double() - self.decay() * age[:, None], 0)
        return weight.numpy(), torch.einsum("ek,ekd->kd", weight, value.double()).numpy()

    def forward(self, users: int, events: EventBatch) -> dict[str, Tensor]:
        device = self.from_text.weight.device
        text, target, value, ts = (x.to(device) for x in _tensors(events, np.arange(len(events))))
        user = torch.from_numpy(events.user).to(device)
        codes = self.item_codes(text, target, value, ts)
        score, slot_value = self.slot_inputs(codes)
        state = slots.gather(user, users, score, slot_value, ts, self.decay())
        kept = window.latest(events.user, events.ts, events.key, self.config.window)
        owner = events.user[kept]
        lengths = np.bincount(owner, minlength=users)
        place = torch.from_numpy(np.arange(len(kept)) - np.repeat(np.cumsum(lengths) - lengths, lengths)).to(device)
        index = (torch.from_numpy(owner).to(device), place)
        shape = (users, max(1, int(lengths.max(initial=0))))
        rows = torch.from_numpy(kept).to(device)
        quantized, scale = window.quantize(codes[rows])
        exact = codes[rows] / scale[:, None]
        # Straight-through: the head trains on the int8 code it will be served.
        rounded = exact + (quantized.to(exact.dtype) - exact).detach()
        zeros = torch.zeros(shape, device=device)
        return {
            "slot_sum": state.total,
            "slot_mass": state.mass.float(),
            "t_ref": state.t_ref,
            "window_code": torch.zeros((*shape, self.config.dim), device=device).index_put(index, rounded),
            "window_scale": zeros.index_put(index, scale),
            "window_time": torch.zeros(shape, dtype=torch.int64, device=device).index_put(index, ts[rows]),
        }


def _tensors(events: EventBatch, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(events.text[rows]).float(),
        torch.from_numpy(events.target[rows]).float(),
        torch.from_numpy(events.value[rows]),
        torch.from_numpy(events.ts[rows]),
    )


def calendar(ts: Tensor) -> Tensor:
    """Hour of day, day of week and day of year (UTC) as sine and cosine, float32 ``[e, 6]``.

    Periods, not absolute time: nothing grows without bound. Remainders are taken in int64; float32 could not hold today's clock.
    """
    year = 31_556_952
    phases = [torch.remainder(ts, period).double() / period for period in (86_400, 7 * 86_400, year)]
    angles = 2 * torch.pi * torch.stack(phases, -1)
    return torch.cat([angles.sin(), angles.cos()], -1).float()
