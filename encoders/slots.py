"""Slots: the long memory, a mergeable exponentially decayed softmax average.

For user items i with slot logits ``l_ik = f_ik - λ_k (t_ref - t_i)``:

    m_k = logsumexp_i(l_ik),    S_k = Σ_i softmax_i(l_ik) · v_ik

The decay is exponential in time, so the weights do not depend on "now" and two partial states merge exactly:
shift both ``m`` to the later ``t_ref`` (``m -= λ Δ``), then ``m = logaddexp(m₁, m₂)``, ``S = e^(m₁-m) S₁ + e^(m₂-m) S₂``.
Associative, commutative; the identity is the user without events, ``m = -inf``.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: ``t_ref`` of a user without events: earlier than any event, and far from the edge of int64.
NEVER = -(2**62)
#: Rows of one float32 sum.
BAG = 32


@dataclass(frozen=True)
class Slots:
    """Slots of n users.

    Attributes:
        total: ``S``, ``[n, K, D]``.
        mass: ``m``, float64 ``[n, K]``; ``-inf`` without events.
        t_ref: int64 ``[n]``, seconds since 1970; ``NEVER`` without events.
    """

    total: Tensor
    mass: Tensor
    t_ref: Tensor


def gather(user: Tensor, users: int, score: Tensor, value: Tensor, ts: Tensor, decay: Tensor) -> Slots:
    """Slots of ``users`` users from their events, all at once; differentiable in score, value and decay.

    Args:
        user: int64 ``[e]``, the user's index of each event.
        score: ``f``, ``[e, K]``.
        value: ``v``, ``[e, K, D]``; ``total`` comes in its dtype.
        ts: int64 ``[e]``, seconds.
        decay: ``λ``, ``[K]``, per second.
    """
    slots = score.shape[1]
    t_ref = torch.full((users,), NEVER, dtype=torch.int64, device=ts.device).scatter_reduce(0, user, ts, "amax")
    age = (t_ref[user] - ts).to(torch.float64)
    logit = score.to(torch.float64) - decay.to(torch.float64) * age[:, None]
    peak = torch.full((users, slots), -torch.inf, dtype=torch.float64, device=ts.device)
    peak = peak.scatter_reduce(0, user[:, None].expand(-1, slots), logit.detach(), "amax")
    weight = torch.exp(logit - peak[user])
    norm = torch.zeros((users, slots), dtype=torch.float64, device=ts.device).index_add(0, user, weight)
    share = (weight / norm[user]).to(value.dtype)
    total = torch.zeros((users, *value.shape[1:]), dtype=value.dtype, device=value.device)
    total = total.index_add(0, user, share[:, :, None] * value)
    return Slots(total, peak + torch.log(norm), t_ref)


def average(
    starts: npt.NDArray[np.int64], score: Tensor, hidden: Tensor, ts: npt.NDArray[np.int64], decay: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``gather`` does, for sorted events and before the values: averages of what the values are linear in.

    A value ``v_k(h) = W_k·hidden + b_k`` is linear and the shares sum to one, so ``S_k = W_k·(Σ share·hidden) + b_k``: one product a user
    and slot instead of one an event and slot.

    Args:
        starts: int64 ``[n]``, the first event of each user; a user's events are adjacent, in order of time.
        score: ``f``, ``[e, K]``.
        hidden: float32 ``[e, H]``.
        ts: int64 ``[e]``, seconds.
        decay: ``λ``, float64 ``[K]``, per second.

    Returns:
        Averages, float32 ``[n, K, H]``; ``mass`` and ``t_ref`` as in ``Slots``.
    """
    lengths = np.diff(starts, append=len(ts))
    user = np.repeat(np.arange(len(starts)), lengths)
    t_ref = ts[starts + lengths - 1]
    logit = score.numpy().astype(np.float64) - decay.numpy() * (t_ref[user] - ts)[:, None]
    peak = np.maximum.reduceat(logit, starts)
    weight = np.exp(logit - peak[user])
    norm = np.add.reduceat(weight, starts)
    share = torch.from_numpy((weight / norm[user]).astype(np.float32).T.copy())
    # Sums of at most BAG rows are float32, those of them float64.
    first = np.flatnonzero((np.arange(len(ts)) - starts[user]) % BAG == 0)
    rows, bags = torch.arange(len(ts)), torch.from_numpy(first)
    sums = [torch.nn.functional.embedding_bag(rows, hidden, bags, mode="sum", per_sample_weights=one) for one in share]
    total = torch.stack(sums, 1)
    if len(first) > len(starts):
        of_user = np.searchsorted(first, starts)
        count = np.diff(of_user, append=len(first))
        # Most users of a night have one, which is their sum already.
        several = count > 1
        parts = total.numpy()[np.repeat(several, count)].astype(np.float64)
        total = total[torch.from_numpy(of_user)]
        whole = np.add.reduceat(parts, np.cumsum(count[several]) - count[several])
        total[torch.from_numpy(several)] = torch.from_numpy(whole.astype(np.float32))
    return total, torch.from_numpy(peak + np.log(norm)), torch.from_numpy(t_ref)


def merge(a: Slots, b: Slots, decay: Tensor) -> Slots:
    """Slots of the union of the events of ``a`` and ``b`` (same users in the same order), in float64."""
    t_ref = torch.maximum(a.t_ref, b.t_ref)
    mass_a, mass_b = (_shift(x.mass, x.t_ref, t_ref, decay) for x in (a, b))
    mass = torch.logaddexp(mass_a, mass_b)
    share_a, share_b = (torch.exp(torch.where(mass.isneginf(), -torch.inf, x - mass)) for x in (mass_a, mass_b))
    total = share_a[..., None] * a.total.to(torch.float64) + share_b[..., None] * b.total.to(torch.float64)
    return Slots(total, mass, t_ref)


def _shift(mass: Tensor, t_ref: Tensor, later: Tensor, decay: Tensor) -> Tensor:
    """``m - λ (later - t_ref)``; the identity stays the identity."""
    lag = torch.where(t_ref == NEVER, 0, later - t_ref).to(torch.float64)
    return mass - decay.to(torch.float64) * lag[:, None]
