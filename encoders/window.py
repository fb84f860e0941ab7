"""The recent window: the short memory, the last M item codes of each user.

Each code is int8 with a scale of its own, with its time and its event key. Items are ordered by (time, event key), so
which M remain does not depend on the order of arrival: merging is pure selection, and exact.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Items of n users laid end to end, each user's oldest first.

    Attributes:
        user: int64 ``[i]``, ascending.
        code: int8 ``[i, D]``; an item's code is ``code * scale``.
        scale: float32 ``[i]``, above zero.
        time: int64 ``[i]``, seconds.
        key: int64 ``[i]``, event keys.
    """

    user: npt.NDArray[np.int64]
    code: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    time: npt.NDArray[np.int64]
    key: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.int64]) -> "Window":
        """The items at ``rows``."""
        return Window(self.user[rows], self.code[rows], self.scale[rows], self.time[rows], self.key[rows])


def latest(user: npt.NDArray[np.int64], time: npt.NDArray[np.int64], key: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Rows of the last ``size`` items of each user, in the window's order."""
    # What comes is mostly in order already, old windows and then a night's items: a stable sort merges such runs in one pass.
    order = np.argsort(user, kind="stable")
    owner, when = user[order], time[order]
    late = when[1:] < when[:-1]
    tied = np.flatnonzero(when[1:] == when[:-1])
    late[tied] = key[order[tied + 1]] < key[order[tied]]
    late &= owner[1:] == owner[:-1]
    if late.any():
        some = np.flatnonzero(np.isin(owner, owner[1:][late]))
        rows = order[some]
        order[some] = rows[np.lexsort((key[rows], time[rows], user[rows]))]
    return order[last_of_sorted(owner, size)]


def last_of_sorted(user: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.bool_]:
    """Which rows are among the last ``size`` of their user; ``user`` ascending."""
    last: npt.NDArray[np.bool_] = np.searchsorted(user, user, side="right") - np.arange(len(user)) <= size
    return last


def merge(a: Window, b: Window, size: int) -> Window:
    """The last ``size`` items of each user among both windows."""
    both = Window(*(np.concatenate([x, y]) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)))
    return both.take(latest(both.user, both.time, both.key, size))


def quantize(code: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes and float32 scales of ``[i, D]``; the largest magnitude of a code becomes 127."""
    scale = (code.detach().abs().amax(-1) / 127).clamp(min=1e-12).to(torch.float32)
    return torch.round(code.detach() / scale[:, None]).to(torch.int8), scale
