"""Slots: merging is exact, whatever the split and the order, and decay means what half-life says."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encoders.slots import BAG, NEVER, Slots, average, gather, merge

DAY = 86_400
NOW = 1_760_000_000
USERS, K, D = 3, 4, 2
#: Six hours, a month, four years, never.
DECAY = torch.tensor([math.log(2) / (x * DAY) for x in (0.25, 30, 1460)] + [0.0], dtype=torch.float64)

EVENTS = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, 20 * 365 * DAY), st.integers(0, 2**31)), max_size=24)


def arrays(events: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """User, score, value and time; score and value come from the third number alone."""
    numbers = [np.random.default_rng(seed) for _, _, seed in events]
    score = np.array([8 * np.tanh(rng.standard_normal(K)) for rng in numbers]).reshape(-1, K)
    value = np.array([rng.standard_normal((K, D)) for rng in numbers]).reshape(-1, K, D)
    user, ts = ([x[i] for x in events] for i in (0, 1))
    moments = NOW - torch.tensor(ts, dtype=torch.int64)
    return torch.tensor(user, dtype=torch.int64), torch.from_numpy(score), torch.from_numpy(value), moments


def gathered(events: list[tuple[int, int, int]]) -> Slots:
    user, score, value, ts = arrays(events)
    return gather(user, USERS, score, value, ts, DECAY)


def brute(events: list[tuple[int, int, int]]) -> Slots:
    """The definition, one user and one slot at a time."""
    user, score, value, ts = (x.numpy() for x in arrays(events))
    total, mass, last = np.zeros((USERS, K, D)), np.full((USERS, K), -np.inf), np.full(USERS, NEVER)
    for u in set(user.tolist()):
        mine = np.flatnonzero(user == u)
        last[u] = max(ts[mine])
        for k in range(K):
            logits = [float(score[i, k]) - float(DECAY[k]) * int(last[u] - ts[i]) for i in mine]
            peak = max(logits)
            weights = [math.exp(x - peak) for x in logits]
            mass[u, k] = peak + math.log(math.fsum(weights))
            for d in range(D):
                total[u, k, d] = math.fsum(w * value[i, k, d] for w, i in zip(weights, mine, strict=True)) / math.fsum(weights)
    return Slots(torch.from_numpy(total), torch.from_numpy(mass), torch.from_numpy(last))


def assert_close(found: Slots, wanted: Slots, tolerance: float = 1e-10) -> None:
    assert found.mass.dtype == torch.float64
    assert torch.equal(found.t_ref, wanted.t_ref)
    torch.testing.assert_close(found.mass, wanted.mass, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.total, wanted.total, rtol=tolerance, atol=tolerance)
    assert not found.mass.isnan().any()
    assert torch.isfinite(found.total).all()


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 5))
def test_parts_merged_equal_the_definition(events: list[tuple[int, int, int]], parts: int) -> None:
    wanted = brute(events)
    assert_close(gathered(events), wanted)
    found = gathered([])
    for part in range(parts):
        found = merge(found, gathered(events[part::parts]), DECAY)
    assert_close(found, wanted)


@settings(max_examples=40, deadline=None)
@given(EVENTS, EVENTS, EVENTS)
def test_merge_is_associative_and_commutative(a: list, b: list, c: list) -> None:
    x, y, z = gathered(a), gathered(b), gathered(c)
    assert_close(merge(merge(x, y, DECAY), z, DECAY), merge(x, merge(y, z, DECAY), DECAY))
    assert_close(merge(x, y, DECAY), merge(y, x, DECAY))


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_the_user_without_events_is_the_identity(events: list[tuple[int, int, int]]) -> None:
    state, nobody = gathered(events), gathered([])
    assert nobody.mass.eq(-torch.inf).all()
    assert nobody.t_ref.eq(NEVER).all()
    for both in (merge(state, nobody, DECAY), merge(nobody, state, DECAY)):
        assert torch.equal(both.mass, state.mass)
        assert torch.equal(both.total, state.total)
        assert torch.equal(both.t_ref, state.t_ref)


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_order_of_arrival_changes_nothing(events: list[tuple[int, int, int]], random) -> None:
    shuffled = random.sample(events, len(events))
    assert_close(gathered(shuffled), gathered(events), 1e-12)
    found = gathered([])
    for event in shuffled:
        found = merge(found, gathered([event]), DECAY)
    assert_close(found, gathered(events))


@pytest.mark.parametrize("slot", range(K - 1))
def test_after_one_half_life_a_score_counts_half(slot: int) -> None:
    """Two events of equal score: the one a half-life older holds a third; in the slot that never decays, half."""
    half_life = round(math.log(2) / float(DECAY[slot]))
    ts = torch.tensor([NOW - half_life, NOW])
    value = torch.zeros(2, K, 1, dtype=torch.float64)
    value[0] = 1
    share = gather(torch.zeros(2, dtype=torch.int64), 1, torch.zeros(2, K, dtype=torch.float64), value, ts, DECAY).total[0, :, 0]
    assert float(share[slot] / (1 - share[slot])) == pytest.approx(0.5, rel=1e-6)
    assert float(share[-1]) == pytest.approx(0.5)


def test_mass_is_the_evidence_left() -> None:
    """One event's mass is its score; a later event of no weight lets it fall by ln 2 per half-life, and not where nothing decays."""
    one, far = torch.zeros(1, dtype=torch.int64), torch.full((1, K), -200.0, dtype=torch.float64)
    value = torch.zeros(1, K, D, dtype=torch.float64)
    old = gather(one, 1, torch.full((1, K), 3.0, dtype=torch.float64), value, torch.tensor([NOW - 30 * DAY]), DECAY)
    assert old.mass.tolist() == [[3.0] * K]
    both = merge(old, gather(one, 1, far, value, torch.tensor([NOW]), DECAY), DECAY)
    assert both.mass[0, 1:].tolist() == pytest.approx([3 - math.log(2), 3 - math.log(2) * 30 / 1460, 3.0], rel=1e-9)


def test_events_twenty_years_apart() -> None:
    events = [(0, 20 * 365 * DAY, 1), (0, 0, 2), (1, 20 * 365 * DAY, 3)]
    state = merge(gathered(events[:1]), gathered(events[1:]), DECAY)
    assert_close(state, brute(events))
    value = arrays(events)[2]
    # The fast slot holds the new event alone; user 1's old event still is all there is of him.
    torch.testing.assert_close(state.total[0, 0], value[1, 0])
    torch.testing.assert_close(state.total[1], value[2])
    assert (state.total[0, -1] - value[1, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("split", [False, True])
def test_one_second_at_todays_clock_tells(split: bool) -> None:
    """float32 time steps by 128 s at today's clock; here one second must be seen to ten digits."""
    decay = torch.tensor([math.log(2)], dtype=torch.float64)
    user, score = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.float64)
    value, ts = torch.tensor([[[1.0]], [[0.0]]], dtype=torch.float64), torch.tensor([NOW, NOW + 1])
    if split:
        parts = [gather(user[i : i + 1], 1, score[i : i + 1], value[i : i + 1], ts[i : i + 1], decay) for i in (0, 1)]
        state = merge(*parts, decay)
    else:
        state = gather(user, 1, score, value, ts, decay)
    assert float(state.total) == pytest.approx(1 / 3, rel=1e-10)


def test_float32_inputs_keep_the_clock() -> None:
    """Training runs in float32: time differences must not."""
    decay = torch.tensor([math.log(2)])
    shares = []
    for late in range(3):
        ts = torch.tensor([NOW, NOW + late])
        state = gather(torch.zeros(2, dtype=torch.int64), 1, torch.zeros(2, 1), torch.tensor([[[1.0]], [[0.0]]]), ts, decay)
        assert state.total.dtype == torch.float32
        shares.append(float(state.total))
    assert shares == pytest.approx([1 / 2, 1 / 3, 1 / 5], rel=1e-6)


def test_extreme_scores_stay_finite() -> None:
    user, ts = torch.tensor([0, 0]), torch.tensor([NOW - 20 * 365 * DAY, NOW])
    score = torch.tensor([[8.0] * K, [-8.0] * K], dtype=torch.float64)
    state = gather(user, USERS, score, torch.ones(2, K, D, dtype=torch.float64), ts, DECAY)
    torch.testing.assert_close(state.total[0], torch.ones(K, D, dtype=torch.float64))
    assert torch.isfinite(state.mass[0]).all()


def test_seven_thousand_nights_in_float32_sums_agree_with_one_rebuild() -> None:
    """What the store does: S rounded to float32 after each night, m kept in float64."""
    rng = np.random.default_rng(0)
    ages = np.sort(rng.integers(0, 20 * 365 * DAY, 7300))[::-1]
    events = [(0, int(age), seed) for seed, age in enumerate(ages)]
    found = gathered([])
    for event in events:
        found = merge(found, gathered([event]), DECAY)
        found = Slots(found.total.float(), found.mass, found.t_ref)
    wanted = gathered(events)
    torch.testing.assert_close(found.total.double(), wanted.total, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.mass, wanted.mass, rtol=1e-12, atol=1e-12)


def test_gradients_reach_score_value_and_decay() -> None:
    user, score, value, ts = arrays([(0, 5 * DAY, 1), (0, 0, 2), (2, 400 * DAY, 3), (2, 3 * DAY, 4), (2, DAY, 5)])
    # Decay per day, so that finite differences have a scale.
    per_day = (DECAY * DAY).clone()
    inputs = [x.clone().requires_grad_() for x in (score, value, per_day)]

    def outputs(f: Tensor, v: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        state = gather(user, USERS, f, v, ts, rate / DAY)
        return state.total, state.mass[[0, 2]]

    assert torch.autograd.gradcheck(outputs, inputs, atol=1e-5)
    total, mass = outputs(*inputs)
    for gradient in torch.autograd.grad(total.square().sum() + mass.sum(), inputs):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0


def test_gradients_are_finite_beside_users_without_events() -> None:
    user, score, value, ts = arrays([(1, 5 * DAY, 1), (1, 0, 2)])
    score.requires_grad_()
    state = gather(user, USERS, score, value, ts, DECAY)
    torch.where(state.mass.isinf(), 0.0, state.mass).sum().backward()
    assert torch.isfinite(score.grad).all()


def test_mass_grows_with_every_event_of_the_same_moment() -> None:
    masses = [float(gathered([(0, 0, 1)] * n).mass[0, 0]) for n in (1, 2, 3, 4)]
    assert [b - a for a, b in pairwise(masses)] == pytest.approx([math.log(2), math.log(3 / 2), math.log(4 / 3)])


@pytest.mark.parametrize("lengths", [[1, BAG, 2], [BAG + 1, 1, 3 * BAG, BAG, 5 * BAG + 7, 2], [4 * BAG]])
def test_averages_of_sorted_events_are_what_gather_gives(lengths: list[int]) -> None:
    """Users of one bag and of several beside each other."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(len(lengths)), lengths)
    ts = NOW - np.sort(rng.integers(0, 400 * DAY, len(user)))[::-1]
    ts = ts[np.lexsort((ts, user))]
    score, hidden = (torch.from_numpy(rng.standard_normal((len(user), width)).astype(np.float32)) for width in (K, 5))
    starts = np.cumsum(lengths) - lengths
    found = average(starts, score, hidden, ts, DECAY)
    wanted = gather(
        torch.from_numpy(user), len(lengths), score, hidden.double()[:, None].expand(-1, K, -1), torch.from_numpy(ts.copy()), DECAY
    )
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0].double(), wanted.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], wanted.mass)
    assert torch.equal(found[2], wanted.t_ref)
