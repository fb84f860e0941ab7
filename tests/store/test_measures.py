"""Measures of movement: right where the answer is known, blind to rotation where they must be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.measures import alignment, cosine_shift, neighbour_overlap


def draw(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_cosine_shift() -> None:
    before = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0, 0], [0, 0], [np.nan, 0], [3, 4]], np.float32)
    after = np.array([[5, 0], [0, 2], [-1, 0], [0, 0], [1, 1], [0, 0], [1, 0], [3, 4]], np.float32)
    found = cosine_shift(before, after)
    np.testing.assert_allclose(found, [0, 1, 2, 1, 1, 0, np.nan, 0], atol=1e-7)
    assert found[7] == 0, "equal rows did not move, to the last bit"
    assert len(cosine_shift(before[:0], after[:0])) == 0


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 60), d=st.integers(2, 9), seed=st.integers(0, 99))
def test_neighbours_by_definition(n: int, d: int, seed: int) -> None:
    before, after = draw(n, d, seed), draw(n, d, seed + 1000)
    k = min(10, n - 2)

    def near(vectors: np.ndarray, row: int) -> set[int]:
        cosines = [
            (float(vectors[row].astype(float) @ v / np.linalg.norm(vectors[row].astype(float)) / np.linalg.norm(v.astype(float))), -i)
            for i, v in enumerate(vectors) if i != row
        ]  # fmt: skip
        return {-i for _, i in sorted(cosines, reverse=True)[:k]}

    wanted = np.mean([len(near(before, row) & near(after, row)) / k for row in range(n)])
    assert neighbour_overlap(before, after) == pytest.approx(wanted)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(20, 80), d=st.integers(2, 9), seed=st.integers(0, 99), scale=st.floats(0.1, 10))
def test_rotation_and_scale_change_nothing(n: int, d: int, seed: int, scale: float) -> None:
    before = draw(n, d, seed)
    rotation, _ = np.linalg.qr(draw(d + 2, d + 2, seed + 1))
    wide = np.concatenate([before, np.zeros((n, 2), np.float32)], 1)
    after = (scale * wide @ rotation).astype(np.float32)
    assert alignment(before, after) == pytest.approx(1, abs=1e-4)
    assert neighbour_overlap(before, after) > 0.97, "rounding may swap two neighbours that are equally near"


def test_unrelated_states_are_told() -> None:
    before, after = draw(400, 8, 0), draw(400, 8, 1)
    assert alignment(before, after) < 0.1
    assert neighbour_overlap(before, after) < 0.1


def test_equal_rows_and_empty_panels() -> None:
    same = np.ones((40, 3), np.float32)
    assert neighbour_overlap(same, 2 * same) == 1
    assert alignment(same, same) == 1
    for n in range(3):
        assert neighbour_overlap(same[:n], same[:n]) == 1
        assert alignment(same[:n], same[:n]) == 1
