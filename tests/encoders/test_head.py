"""The head: neutral until it learns names, finite for anyone, deaf to padding."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from encoders.head import TideHead
from encoders.personalizer import CAP, EventBatch
from encoders.tide import Tide
from schemas.states import StateBatch

Make = Callable[..., EventBatch]
State = dict[str, Tensor]
TODAY = 1_760_000_000
USERS = 5


@pytest.fixture
def state(tide: Tide, random_events: Make) -> State:
    """Head inputs of five users, the last two without events."""
    states = tide.update(StateBatch.empty(USERS, tide.spec), random_events(30, 3))
    return {name: torch.from_numpy(array) for name, array in states.head_inputs(tide.spec).items()}


@pytest.fixture
def query() -> Tensor:
    return torch.randn(USERS, 12, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def now() -> Tensor:
    return torch.full((USERS,), TODAY)


def test_starts_at_the_neutral_prefix_for_everyone(tide: Tide, state: State, query: Tensor, now: Tensor) -> None:
    neutral = torch.randn(3, 6)
    head = TideHead(tide.config, 12, 6, neutral, 0.37, False)
    head.bind(tide)
    for asked in (query, None):
        prefix = head(asked, now, state)
        assert prefix.shape == (USERS, 3, 6)
        assert torch.equal(prefix, (0.37 * head.gain * neutral).expand(USERS, -1, -1))


def test_trained_prefixes_depend_on_user_query_and_time(random_head: TideHead, state: State, query: Tensor, now: Tensor) -> None:
    prefix = random_head(query, now, state)
    same_query = random_head(query[:1].expand(USERS, -1), now, state)
    assert (same_query[0] - same_query[1]).abs().max() > 1e-3
    assert (random_head(query.flip(0), now, state)[0] - prefix[0]).abs().max() > 1e-3
    assert (random_head(query, now + 30 * 86_400, state)[0] - prefix[0]).abs().max() > 1e-4
    # Both of the unknown users are nobody.
    torch.testing.assert_close(same_query[3], same_query[4])


def test_unknown_users_get_one_finite_prefix_at_any_time(random_head: TideHead, tide: Tide, query: Tensor) -> None:
    nobody = {name: torch.from_numpy(x) for name, x in StateBatch.empty(USERS, tide.spec).head_inputs(tide.spec).items()}
    now = torch.tensor([-(2**40), 0, 1, TODAY, 2**40])
    prefix = random_head(None, now, nobody)
    assert torch.isfinite(prefix).all()
    assert torch.equal(prefix, prefix[:1].expand_as(prefix))
    assert torch.isfinite(random_head(query, now, nobody)).all()


def test_both_attentions_fall_on_their_null_entry(random_head: TideHead, tide: Tide, now: Tensor) -> None:
    nobody = {name: torch.from_numpy(x) for name, x in StateBatch.empty(USERS, tide.spec).head_inputs(tide.spec).items()}
    q = torch.randn(USERS, tide.config.dim)
    torch.nn.init.normal_(random_head.slot_null)
    torch.nn.init.normal_(random_head.item_null)
    assert torch.equal(random_head._slots(q, now, nobody), random_head.slot_null.expand(USERS, -1))
    read, named = random_head._window(q, now, nobody)
    assert torch.equal(read, random_head.item_null.expand(USERS, -1))
    assert not named.any()


@pytest.mark.parametrize("size", [0.01, 1e4])
def test_the_move_is_capped(random_head: TideHead, state: State, query: Tensor, now: Tensor, size: float) -> None:
    with torch.no_grad():
        random_head.out.weight.mul_(size)
        random_head.out.bias.mul_(size)
        move = random_head(query, now, state) / (random_head.rms * random_head.gain) - random_head.neutral
    rms = move.square().mean(-1).sqrt()
    if size > 1:
        torch.testing.assert_close(rms, torch.full_like(rms, CAP), rtol=1e-4, atol=0)
    else:
        assert rms.max() < CAP / 2
        raw = random_head.out(torch.zeros(1, random_head.out.in_features))
        assert torch.isfinite(raw).all()
    assert CAP == 3


def test_gain_and_rms_scale_the_whole(random_head: TideHead, state: State, query: Tensor, now: Tensor) -> None:
    before = random_head(query, now, state)
    with torch.no_grad():
        random_head.gain.fill_(2.5)
    torch.testing.assert_close(random_head(query, now, state), 2.5 * before)


def test_negative_ages_count_as_none(random_head: TideHead, state: State, query: Tensor) -> None:
    """A query before the state's last event (a clock that runs behind) is answered as of that moment."""
    latest = torch.maximum(state["t_ref"], state["window_time"].amax(1)).clamp(min=0)
    future = {**state, "window_time": torch.where(state["window_scale"] > 0, latest[:, None], 0)}
    at_once = random_head(query, latest, future)
    for seconds in (1, 10**6, 10**10):
        assert torch.equal(random_head(query, latest - seconds, future), at_once)
    later = random_head(query, latest + 10**7, future)
    assert (later[0] - at_once[0]).abs().max() > 1e-4


@pytest.mark.parametrize("more", [1, 17, 200])
def test_padding_is_not_seen(random_head: TideHead, state: State, query: Tensor, now: Tensor, more: int) -> None:
    padded = dict(state)
    for name, junk in (("window_code", 77), ("window_scale", 0), ("window_time", TODAY)):
        tail = torch.full((USERS, more, *state[name].shape[2:]), junk, dtype=state[name].dtype)
        padded[name] = torch.cat([state[name], tail], 1)
    for asked in (query, None):
        torch.testing.assert_close(random_head(asked, now, padded), random_head(asked, now, state), rtol=0, atol=1e-6)


def test_rows_do_not_see_each_other(random_head: TideHead, state: State, query: Tensor, now: Tensor) -> None:
    together = random_head(query, now, state)
    for i in range(USERS):
        alone = random_head(query[i : i + 1], now[i : i + 1], {name: x[i : i + 1] for name, x in state.items()})
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


def test_the_static_prefix_knows_no_query_and_never_moves(random_head: TideHead, state: State, now: Tensor) -> None:
    with torch.no_grad():
        random_head.query.weight.normal_()
        before = random_head(None, now, state)
        random_head.query.weight.normal_()
        random_head.query.bias.normal_()
        assert random_head(None, now, state).numpy().tobytes() == before.numpy().tobytes()
    assert (before[0] - before[1]).abs().max() > 1e-3


def test_gradients_are_finite_beside_nobody(random_head: TideHead, tide: Tide, random_events: Make, query: Tensor, now: Tensor) -> None:
    state = tide(USERS, random_events(30, 3))
    random_head(query, now, state).square().sum().backward()
    random_head(None, now, tide(USERS, random_events(30, 3))).square().sum().backward()
    unused = set()
    for name, weight in [*random_head.named_parameters(), *tide.named_parameters()]:
        if weight.grad is None:
            unused.add(name)
            continue
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max() > 0, name
    assert not unused


def test_gradients_are_finite_for_unknown_users(random_head: TideHead, tide: Tide, random_events: Make, query: Tensor, now: Tensor) -> None:
    nothing = random_events(0, 1)
    random_head(query, now, tide(USERS, nothing)).square().sum().backward()
    for weight in random_head.parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all()


def test_a_frozen_neutral_prefix_stays(tide: Tide, state: State, query: Tensor, now: Tensor) -> None:
    for frozen in (True, False):
        head = TideHead(tide.config, 12, 6, torch.randn(3, 6), 1.0, frozen)
        head(query, now, state).sum().backward()
        assert (head.neutral.grad is None) == frozen


def test_bind_takes_over_the_half_lives_per_day(random_head: TideHead, tide: Tide) -> None:
    with torch.no_grad():
        tide.raw_decay.add_(1)
    before = random_head.slot_decay.clone()
    random_head.bind(tide)
    np.testing.assert_allclose(random_head.slot_decay, (tide.decay() * 86_400).detach(), rtol=1e-6)
    assert (random_head.slot_decay[:-1] > before[:-1]).all()
    assert not random_head.slot_decay.requires_grad


def test_it_begins_by_saying_the_targets_of_the_window(tide: Tide, random_events: Make, query: Tensor, now: Tensor) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((4, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = torch.from_numpy(rng.standard_normal((4, 6)).astype(np.float32)) * 0.37
    head = TideHead(tide.config, 12, 6, torch.randn(3, 6), 0.37, False)
    head.learn_names(tide, torch.from_numpy(vectors), embeddings)
    events = random_events(30, USERS)
    # Each user answers one thing only; the last has no events.
    said = events.user % 4
    events = replace(events, target=vectors[said].astype(np.float16))
    states = tide.update(StateBatch.empty(USERS + 1, tide.spec), events)
    state = {name: torch.from_numpy(array) for name, array in states.head_inputs(tide.spec).items()}
    asked, times = torch.cat([query, query[:1]]), torch.full((USERS + 1,), TODAY)
    delta = (head(asked, times, state) - head.neutral_prefix()).detach() / 0.37
    assert not delta[USERS].any()
    for user in range(USERS):
        likeness = torch.cosine_similarity(delta[user].mean(0)[None], embeddings, dim=1)
        assert int(likeness.argmax()) == user % 4, likeness


def test_a_single_target_is_learned_as_itself(tide: Tide) -> None:
    head = TideHead(tide.config, 12, 6, torch.randn(3, 6), 0.5, False)
    head.learn_names(tide, torch.ones(1, 16), torch.full((1, 6), 2.0))
    code = tide.target_part(tide.from_target(torch.ones(1, 16)))
    torch.testing.assert_close(head.naming(code), torch.full((1, 6), 4.0), rtol=1e-2, atol=0)


def test_items_without_a_target_say_nothing(tide: Tide, random_events: Make, query: Tensor, now: Tensor) -> None:
    head = TideHead(tide.config, 12, 6, torch.randn(3, 6), 0.5, False)
    head.learn_names(tide, torch.randn(3, 16), torch.randn(3, 6))
    events = random_events(30, USERS)
    states = tide.update(StateBatch.empty(USERS, tide.spec), replace(events, target=np.zeros_like(events.target)))
    state = {name: torch.from_numpy(array) for name, array in states.head_inputs(tide.spec).items()}
    torch.testing.assert_close(head(query, now, state), head.neutral_prefix().expand(USERS, -1, -1), atol=1e-6, rtol=0)


def test_weights_of_heads_that_said_nothing_still_load(tide: Tide, state: State, query: Tensor, now: Tensor) -> None:
    head = TideHead(tide.config, 12, 6, torch.randn(3, 6), 0.37, False)
    older = {name: x.clone() for name, x in head.state_dict().items() if not name.startswith("naming")}
    torch.nn.init.normal_(head.naming.weight)
    head.load_state_dict(older)
    assert not head.naming.weight.any()
    with pytest.raises(RuntimeError, match="naming_gain"):
        head.load_state_dict({**older, "naming.weight": head.naming.weight})
    torch.testing.assert_close(head(query, now, state), head.neutral_prefix().expand(USERS, -1, -1))
