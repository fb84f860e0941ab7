"""The embedding cache gives each key its vector, whatever was written around it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.embeddings import Embeddings
from store.home import Home


def vectors(keys: np.ndarray) -> np.ndarray:
    return np.stack([keys % 1000, keys % 7, keys % 13], 1).astype(np.float16)


@pytest.mark.parametrize("few", [0, 1_000], ids=["by a pass", "by filter"])
def test_round_trip(home: Home, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr("store.rows.FEW", few)
    monkeypatch.setattr("store.places.PASS_ROWS", 7)
    cache = Embeddings(home, "encoder", 3)
    keys = np.array([2**63 - 1, -(2**63), 0, *range(1, 40)], np.int64)
    assert not cache.known(keys).any()
    assert cache.read(np.array([], np.int64)).shape == (0, 3)
    cache.append(keys[:20], vectors(keys[:20]), cache.mark())
    cache.append(keys[20:], vectors(keys[20:]), cache.mark())
    asked = np.array([5, 2**63 - 1, 5, -(2**63), 39, 0], np.int64)
    np.testing.assert_array_equal(cache.read(asked), vectors(asked))
    np.testing.assert_array_equal(cache.known(np.array([1, 999, 39, 1])), [True, False, True, True])
    with pytest.raises(KeyError, match="1 texts"):
        cache.read(np.array([1, 999]))


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6, unique=True), min_size=1, max_size=3), st.data())
def test_any_order_and_repeats(home: Home, groups: list[list[int]], data: st.DataObject) -> None:
    cache = Embeddings(home, "property", 3)
    for group in groups:  # a key written twice holds the same vector
        keys = np.array(group, np.int64)
        cache.append(keys, vectors(keys), cache.mark())
    asked = np.array(data.draw(st.lists(st.sampled_from([k for g in groups for k in g]), max_size=9)), np.int64)
    np.testing.assert_array_equal(cache.read(asked), vectors(asked))


def test_encoders_do_not_share(home: Home) -> None:
    one, other = Embeddings(home, "one", 3), Embeddings(home, "other", 3)
    one.append(np.array([1]), vectors(np.array([1])), one.mark())
    assert one.known(np.array([1])).all()
    assert not other.known(np.array([1])).any()
