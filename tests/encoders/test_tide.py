"""tide's update: one go or many, alone or in company, stored or not, the state is the same."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from encoders.personalizer import EventBatch
from encoders.slots import NEVER
from encoders.tide import BLOCK, DAY, Tide, calendar
from schemas.config import TideConfig
from schemas.states import StateBatch

Make = Callable[..., EventBatch]
TODAY = 1_760_000_000
WINDOW = ("window_code", "window_scale", "window_time", "window_key")


def assert_same_bits(found: StateBatch, wanted: StateBatch, columns: tuple[str, ...] | None = None) -> None:
    np.testing.assert_array_equal(found.offsets, wanted.offsets)
    for name in columns or tuple(wanted.columns):
        assert found.columns[name].dtype == wanted.columns[name].dtype, name
        assert found.columns[name].tobytes() == wanted.columns[name].tobytes(), name


def assert_equal_to_rounding(found: StateBatch, wanted: StateBatch) -> None:
    assert_same_bits(found, wanted, (*WINDOW, "t_ref"))
    np.testing.assert_allclose(found.columns["slot_sum"], wanted.columns["slot_sum"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.columns["slot_mass"], wanted.columns["slot_mass"], rtol=1e-10, atol=1e-10)


def build(tide: Tide, events: EventBatch, users: int) -> StateBatch:
    return tide.update(StateBatch.empty(users, tide.spec), events)


def user_state(states: StateBatch, user: int, tide: Tide) -> StateBatch:
    return states.take(np.array([user]), tide.spec)


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(3))
def test_many_nights_equal_one_build(tide: Tide, random_events: Make, pick: Make, seed: int) -> None:
    events, users = random_events(300, 7, seed), 7
    rng = np.random.default_rng(seed)
    night = rng.integers(0, 12, len(events))
    states = StateBatch.empty(users, tide.spec)
    for part in range(12):
        states = tide.update(states, pick(events, rng.permutation(np.flatnonzero(night == part))))
    assert_equal_to_rounding(states, build(tide, events, users))


def test_order_of_rows_within_a_batch_changes_no_bit(tide: Tide, random_events: Make, pick: Make) -> None:
    events = random_events(200, 5)
    shuffled = pick(events, np.random.default_rng(1).permutation(200))
    assert_same_bits(build(tide, shuffled, 5), build(tide, events, 5))


@pytest.mark.parametrize("company", [1, 30, 400])
def test_company_changes_no_bit_of_a_users_state(tide: Tide, random_events: Make, pick: Make, company: int) -> None:
    events = random_events(5000, company, 3)
    crowd = build(tide, events, company)
    for user in {0, company // 2, company - 1}:
        mine = pick(events, np.flatnonzero(events.user == user), np.zeros(company, np.int64))
        assert_same_bits(user_state(crowd, user, tide), build(tide, mine, 1))


@pytest.mark.parametrize("dim", [8, 24, 64])
def test_a_codes_bits_do_not_depend_on_its_place(random_events: Make, pick: Make, dim: int) -> None:
    events = random_events(BLOCK, 1)
    tide, order = Tide(TideConfig(dim=dim), 16), np.random.default_rng(0).permutation(BLOCK)
    users = np.arange(BLOCK)
    straight = build(tide, EventBatch(**{**vars(events), "user": users}), BLOCK)
    moved = build(tide, EventBatch(**{**vars(pick(events, order)), "user": users}), BLOCK)
    assert_same_bits(moved, straight.take(order, tide.spec))


@pytest.mark.parametrize("before", [0, 1, 3000, 8 * BLOCK - 40, 8 * BLOCK - 7])
def test_a_user_across_the_edge_of_a_block_keeps_his_bits(tide: Tide, random_events: Make, pick: Make, before: int) -> None:
    """User 1's 64 events follow ``before`` events of user 0, so blocks and matrix products cut them anywhere."""
    events = random_events(before + 64, 1, 5)
    users = np.repeat([0, 1], [before, 64])
    both = EventBatch(**{**vars(events), "user": users})
    alone = pick(both, np.flatnonzero(users == 1), np.array([0, 0]))
    assert_same_bits(user_state(build(tide, both, 2), 1, tide), build(tide, alone, 1))


def test_more_events_than_the_blocks_hold(tide: Tide, random_events: Make, pick: Make) -> None:
    events = random_events(8 * BLOCK + 500, 1)
    whole = build(tide, events, 1)
    order = np.lexsort((events.key, events.ts, events.user))
    rows = [block[1] for block in tide._blocks(events, order)]
    assert len(rows) > 1
    np.testing.assert_array_equal(np.concatenate(rows), order)
    assert whole.offsets.tolist() == [0, tide.config.window]
    halves = build(tide, pick(events, np.arange(0, len(events), 2)), 1)
    assert_equal_to_rounding(tide.update(halves, pick(events, np.arange(1, len(events), 2))), whole)


def test_states_survive_arrow(tide: Tide, random_events: Make, pick: Make) -> None:
    first, second = random_events(80, 6, 1), random_events(60, 8, 2)
    states = build(tide, first, 8)
    table = states.to_arrow(tide.spec)
    assert table.schema == tide.spec.schema()
    stored = StateBatch.from_arrow(table, tide.spec)
    assert_same_bits(stored, states)
    assert_same_bits(tide.update(stored, second), tide.update(states, second))
    sliced = StateBatch.from_arrow(table.slice(2, 4), tide.spec)
    assert_same_bits(sliced, states.take(np.arange(2, 6), tide.spec))
    alone = pick(second, np.flatnonzero((second.user >= 2) & (second.user < 6)), np.arange(8) - 2)
    assert_same_bits(tide.update(sliced, alone), tide.update(states, second).take(np.arange(2, 6), tide.spec))


def test_update_leaves_its_input_alone(tide: Tide, random_events: Make) -> None:
    states = build(tide, random_events(50, 4, 1), 4)
    before = {name: array.copy() for name, array in states.columns.items()}
    tide.update(states, random_events(50, 4, 2))
    for name, array in before.items():
        np.testing.assert_array_equal(states.columns[name], array)


def test_no_events_change_nothing(tide: Tide, random_events: Make, pick: Make) -> None:
    nothing = pick(random_events(1, 1), np.arange(0))
    empty = build(tide, nothing, 3)
    assert_same_bits(empty, StateBatch.empty(3, tide.spec))
    assert (empty.columns["t_ref"] == NEVER).all()
    states = build(tide, random_events(40, 3), 3)
    assert_same_bits(tide.update(states, nothing), states)
    assert {name: x.shape[0] for name, x in tide(3, nothing).items()} == dict.fromkeys(tide(3, random_events(9, 3)), 3)


def test_one_user_one_event(tide: Tide, random_events: Make) -> None:
    events = random_events(1, 1)
    state = build(tide, events, 1)
    code = tide.item_codes(
        *(torch.from_numpy(x.astype(np.float32)) for x in (events.text, events.target, events.value)), torch.from_numpy(events.ts)
    )
    score, value = tide.slot_inputs(code)
    np.testing.assert_allclose(state.columns["slot_mass"], score.detach(), atol=1e-5)
    np.testing.assert_allclose(state.columns["slot_sum"], value.detach(), atol=1e-5)
    assert state.columns["t_ref"].tolist() == events.ts.tolist()
    item = state.columns["window_code"].astype(np.float32) * state.columns["window_scale"][:, None]
    np.testing.assert_allclose(item, code.detach(), atol=float(state.columns["window_scale"][0]) * 0.51)


def test_no_target_and_no_value_are_not_average_ones(tide: Tide, random_events: Make) -> None:
    """A missing value adds nothing; a given one moves the code by its distance from the mean."""
    events = random_events(400, 1)
    tide.fit_scales(events)
    given = events.value[np.isfinite(events.value)]
    assert float(tide.value_mean) == pytest.approx(given.mean(), rel=1e-5)
    assert float(tide.value_std) == pytest.approx(given.std(), rel=1e-5)
    text, ts = torch.randn(1, 16), torch.tensor([TODAY])
    nothing = torch.zeros(1, 16)
    missing, mean, high = (
        tide.item_codes(text, nothing, torch.tensor([v]), ts) for v in (float("nan"), float(given.mean()), float(given.max()))
    )
    torch.testing.assert_close(missing, mean)
    assert (missing - high).abs().max() > 1e-2
    assert (tide.item_codes(text, text, torch.tensor([float("nan")]), ts) - missing).abs().max() > 1e-2


@pytest.mark.parametrize(("share", "text_part", "target_part"), [(0.25, 6, 2), (0.5, 4, 4), (0.0, 8, 8)])
def test_text_and_target_have_their_parts_of_a_code(tide_config: TideConfig, share: float, text_part: int, target_part: int) -> None:
    tide = Tide(tide_config.model_copy(update={"target_share": share}), 16)
    one, other, never = torch.randn(1, 16), torch.randn(1, 16), torch.tensor([float("nan")])
    ts = torch.tensor([TODAY])
    code, text, target = (tide.item_codes(x, y, never, ts) for x, y in ((one, one), (other, one), (one, other)))
    assert torch.equal((text != code).flatten(), torch.arange(8) < text_part)
    assert torch.equal((target != code).flatten(), torch.arange(8) >= 8 - target_part)


def test_infinite_values_do_not_spoil_a_state(tide: Tide, random_events: Make) -> None:
    events = random_events(20, 2)
    events.value[:3] = [np.inf, -np.inf, np.nan]
    for name, array in build(tide, events, 2).columns.items():
        assert np.isfinite(array).all(), name


@pytest.mark.parametrize("users", [4, 9])
def test_training_sees_what_a_refresh_stores(tide: Tide, random_events: Make, users: int) -> None:
    """``forward`` equals ``update``'s head inputs; of nine users, some have no events."""
    events = random_events(60, 4)
    trained = {name: x.detach().numpy() for name, x in tide(users, events).items()}
    stored = build(tide, events, users).head_inputs(tide.spec)
    assert list(stored) == list(trained)
    for name, array in stored.items():
        if name == "window_code":
            # A code half-way between two steps may fall either way, float32 sums being what they are.
            assert np.abs(array - trained[name]).max() <= 1 + 1e-5
            assert (np.abs(array - trained[name]) > 1e-4).mean() < 1e-3
        else:
            np.testing.assert_allclose(trained[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_training_gradients_reach_every_weight(tide: Tide, random_events: Make) -> None:
    out = tide(9, random_events(60, 4))
    loss = out["slot_sum"].square().sum() + torch.where(out["slot_mass"].isinf(), 0, out["slot_mass"]).sum()
    (loss + (out["window_code"] * out["window_scale"][..., None]).square().sum()).backward()
    for name, weight in tide.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max() > 0, name


@pytest.mark.usefixtures("_threads")
def test_number_of_threads_changes_no_bit(tide: Tide, random_events: Make) -> None:
    events, found = random_events(3 * BLOCK, 40), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(build(tide, events, 40))
    assert_same_bits(*found)


def test_initial_half_lives_are_log_spaced_and_one_never_ends() -> None:
    rates = Tide(TideConfig(slots=5, half_life_hours=6, half_life_days=1460), 8).decay().detach() * DAY
    half_lives = np.log(2) / rates[:-1].numpy()
    np.testing.assert_allclose(half_lives, np.geomspace(0.25, 1460, 4), rtol=1e-3)
    assert float(rates[-1]) == 0


@pytest.mark.parametrize("slots", [1, 2])
def test_few_slots(slots: int, random_events: Make) -> None:
    tide = Tide(TideConfig(slots=slots, dim=8, window=3, hidden=8), 16)
    assert tide.decay().shape == (slots,)
    assert np.isfinite(build(tide, random_events(30, 2), 2).columns["slot_sum"]).all()


def test_calendar_is_bounded_and_periodic() -> None:
    ts = torch.from_numpy(np.random.default_rng(0).integers(-(2**33), 2**33, 2000))
    features = calendar(ts)
    assert features.dtype == torch.float32
    assert features.shape == (2000, 6)
    assert features.abs().max() <= 1
    torch.testing.assert_close(features.square()[:, :3] + features.square()[:, 3:], torch.ones(2000, 3))
    for column, period in enumerate((86_400, 7 * 86_400, 31_556_952)):
        both = [column, column + 3]
        torch.testing.assert_close(calendar(ts + 1000 * period)[:, both], features[:, both], rtol=0, atol=1e-6)
        assert (calendar(ts + period // 2)[:, both] - features[:, both]).abs().max() > 1.9
        # A minute is told apart even at today's clock.
        assert not torch.equal(calendar(torch.tensor([TODAY]))[:, both[:1]], calendar(torch.tensor([TODAY + 60]))[:, both[:1]])
