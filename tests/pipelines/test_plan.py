"""A plan covers every key once, in shards of about the asked size, and outlives its maker."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.plan import Size, cut, histogram, plan_refresh
from store.events import EventLog
from store.home import Home

LOW, HIGH = -(2**63), 2**63 - 1
KEYS = st.one_of(st.integers(LOW, HIGH), st.sampled_from([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH, 2**48, 2**48 - 1, -(2**48)]))


@settings(deadline=None)
@given(st.lists(KEYS, max_size=60), st.integers(1, 20))
def test_every_key_is_in_one_shard(keys: list[int], size: int) -> None:
    shards = cut(histogram([np.array(keys[:7], np.int64), np.array(keys[7:], np.int64)]), size)
    for key in keys:
        assert sum(shard.low <= key <= shard.high for shard in shards) == 1
    for shard in shards:
        held = sum(shard.low <= key <= shard.high for key in keys)
        assert shard.events == held > 0
    assert [shard.index for shard in shards] == list(range(len(shards)))
    for shard, following in pairwise(shards):
        assert shard.high < following.low
        assert shard.events + following.events > size
    if shards:
        assert shards[-1].high == HIGH


def test_shards_have_the_asked_size() -> None:
    keys = np.random.default_rng(0).integers(LOW, HIGH, 200_000)
    shards = cut(histogram([keys]), 1000)
    assert 195 <= len(shards) <= 210
    assert max(shard.events for shard in shards) <= 1000
    heavy = np.concatenate([keys[:5000], np.full(9000, 42)])
    assert sum(shard.events for shard in cut(histogram([heavy]), 1000)) == 14_000


@pytest.mark.parametrize("damage", [None, b"", b"{", b"\xff"])
def test_a_stored_plan_is_found_again(home: Home, put: Callable[..., object], damage: bytes | None) -> None:
    put(home, [{"user_id": f"u{i}", "ts": 1_700_000_000, "text": "x"} for i in range(99)])
    size = Size(events=64, users=64, bytes=1 << 30, event_bytes=1000, user_bytes=1000)
    encoder = {"encoder": "e" * 64, "states_since": 1, "texts_since": 1}
    asked = {"size": size, "aggregator": "a" * 64, **encoder, "parent": None, "first": 0, "last": 1, "rebuild": True}
    plan = plan_refresh(home, EventLog(home), **asked)  # type: ignore[arg-type]
    assert sum(shard.events for shard in plan.shards) == 99
    if damage is not None:
        (Path(home.uri) / plan.folder / "plan.json").write_bytes(damage)
    found = plan_refresh(home, EventLog(home), **asked)  # type: ignore[arg-type]
    assert (found == plan) is (damage is None)
    assert found.shards == plan.shards
    assert plan_refresh(home, EventLog(home), **asked) == found  # type: ignore[arg-type]
