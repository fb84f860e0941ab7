"""The item bank that ``pplug`` and ``tapper`` keep: the encoder's vectors of each user's latest items, as they are.

Nothing in it is learned, so a bank outlives every head. Merging is selection by (time, event key), and exact.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoders import window
from encoders.personalizer import Aggregator, EventBatch
from schemas.config import PplugConfig, TapperConfig
from schemas.states import Column, StateBatch, StateSpec


class Bank(Aggregator):
    """The latest items: text and target vectors in float16, times and keys.

    Args:
        timed: whether the head reads the times.
    """

    config: PplugConfig | TapperConfig

    def __init__(
        self, config: PplugConfig | TapperConfig, text_dim: int, prefix_shape: tuple[int, int] | None = None, timed: bool = False
    ) -> None:
        super().__init__(config, text_dim, prefix_shape)
        self.spec = StateSpec(
            capacity=config.items,
            columns=(
                Column(name="center", dtype="float32", shape=(2 * text_dim,), head=False),
                Column(name="item_text", dtype="float16", shape=(text_dim,), per="item"),
                Column(name="item_target", dtype="float16", shape=(text_dim,), per="item"),
                Column(name="item_time", dtype="int64", per="item", head=timed),
                Column(name="item_key", dtype="int64", per="item", head=False),
            ),
        )

    def update(self, states: StateBatch, events: EventBatch) -> StateBatch:
        user = np.concatenate([np.repeat(np.arange(len(states)), np.diff(states.offsets)), events.user])
        time, key = (np.concatenate([states.columns[name], new]) for name, new in (("item_time", events.ts), ("item_key", events.key)))
        kept = window.latest(user, time, key, self.config.items)
        # Old items come first in what was joined: each vector is copied once, from where it lies.
        old, size = kept < len(states.columns["item_time"]), len(states.columns["item_time"])
        columns: dict[str, npt.NDArray[Any]] = dict(states.columns)
        columns.update(item_time=time[kept], item_key=key[kept])
        for name, new in (("item_text", events.text), ("item_target", events.target)):
            joined = np.empty((len(kept), self.text_dim), np.float16)
            joined[old] = states.columns[name][kept[old]]
            joined[~old] = new[kept[~old] - size]
            columns[name] = joined
        offsets = np.searchsorted(user[kept], np.arange(len(states) + 1)).astype(np.int64)
        columns["center"] = _center(columns, offsets)
        return StateBatch(columns, offsets)

    def forward(self, users: int, events: EventBatch) -> dict[str, Tensor]:
        kept = window.latest(events.user, events.ts, events.key, self.config.items)
        owner = events.user[kept]
        lengths = np.bincount(owner, minlength=users)
        place = np.arange(len(kept)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        shape = (users, max(1, int(lengths.max(initial=0))))
        out: dict[str, Tensor] = {}
        sources: dict[str, npt.NDArray[Any]] = {"item_text": events.text, "item_target": events.target, "item_time": events.ts}
        for column in self.spec.columns:
            if column.per != "item" or not column.head:
                continue
            padded = np.zeros((*shape, *column.shape), np.int64 if column.dtype == "int64" else np.float32)
            padded[owner, place] = sources[column.name][kept]
            out[column.name] = torch.from_numpy(padded)
        return out


def _center(columns: Mapping[str, npt.NDArray[Any]], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Mean of each user's text and target vectors: what checks and comparisons of versions see of a bank. No head reads it."""
    lengths, some = np.diff(offsets), np.flatnonzero(np.diff(offsets))
    halves = []
    for name in ("item_text", "item_target"):
        sums = np.zeros((len(lengths), columns[name].shape[1]), np.float32)
        if len(some):
            sums[some] = np.add.reduceat(columns[name], offsets[some], axis=0, dtype=np.float32)
        halves.append(sums / np.maximum(lengths, 1)[:, None].astype(np.float32))
    return np.concatenate(halves, 1)


def there(text: Tensor) -> Tensor:
    """Which places of padded vectors ``[n, i, dim]`` hold an item: an encoder's vector is never all zero. bool ``[n, i]``."""
    return text.abs().amax(-1) > 0
