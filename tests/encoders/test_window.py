"""The window's choice is exact and its int8 codes are close."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.window import Window, latest, merge, quantize

# Few users and few times, so that ties are the rule.
ITEMS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(-(2**63), 2**63 - 1)), max_size=40, unique_by=lambda x: x[2])


def window(items: list[tuple[int, int, int]]) -> Window:
    user, time, key = (np.array([x[i] for x in items], np.int64) for i in range(3))
    code = (key[:, None] % np.array([101, 53])).astype(np.int8)
    return Window(user, code, (key % 7 + 1).astype(np.float32), time, key)


def chosen(items: list[tuple[int, int, int]], size: int) -> list[tuple[int, int, int]]:
    return [item for user in range(4) for item in sorted(x for x in items if x[0] == user)[-size:]]


def rows_of(found: Window) -> list[tuple[int, int, int]]:
    return list(zip(found.user.tolist(), found.time.tolist(), found.key.tolist(), strict=True))


@given(ITEMS, st.integers(1, 6))
def test_latest_is_the_end_of_each_users_sorted_items(items: list[tuple[int, int, int]], size: int) -> None:
    whole = window(items)
    assert rows_of(whole.take(latest(whole.user, whole.time, whole.key, size))) == chosen(items, size)


@settings(max_examples=60)
@given(ITEMS, st.integers(1, 6), st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_split_and_order_give_the_same_bits(items: list[tuple[int, int, int]], size: int, random, parts: int) -> None:
    wanted = merge(window([]), window(items), size)
    assert rows_of(wanted) == chosen(items, size)
    shuffled = random.sample(items, len(items))
    found = window([])
    for part in range(parts):
        found = merge(found, window(shuffled[part::parts]), size)
    for name, array in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)
        assert getattr(found, name).dtype == array.dtype


def test_a_tie_in_time_goes_to_the_greater_key() -> None:
    found = merge(window([(0, 5, 30), (0, 5, 10)]), window([(0, 5, 20)]), 2)
    assert found.key.tolist() == [20, 30]


def test_a_late_event_older_than_the_window_is_left_out() -> None:
    full = window([(0, t, t) for t in range(10, 14)])
    assert merge(full, window([(0, 9, 1)]), 4).key.tolist() == [10, 11, 12, 13]
    assert merge(full, window([(0, 11, 99)]), 4).key.tolist() == [11, 99, 12, 13]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_int8_errs_by_half_a_step_at_most(numbers: list[float]) -> None:
    code = torch.tensor([numbers], dtype=torch.float32)
    quantized, scale = quantize(code)
    error = (quantized.double() * scale.double()[:, None] - code.double()).abs()
    assert quantized.dtype == torch.int8
    assert scale.dtype == torch.float32
    # Half a step, and the rounding of code / scale in float32.
    assert (error <= scale.double()[:, None] * (0.5 + 127 * 2**-23)).all()
    assert int(quantized.abs().max()) == (127 if float(code.abs().max()) > 1e-9 else int(quantized.abs().max()))


def test_each_code_has_its_own_scale() -> None:
    quantized, scale = quantize(torch.tensor([[1.0, -0.5], [1000.0, 250.0]]))
    assert scale.tolist() == pytest.approx([1 / 127, 1000 / 127])
    assert quantized.tolist() == [[127, -64], [127, 32]]


def test_a_code_of_zeros_stays_zero_and_counts_as_an_item() -> None:
    quantized, scale = quantize(torch.zeros(2, 8))
    assert not quantized.any()
    assert (scale > 0).all()
    assert torch.isfinite(scale).all()


def test_scale_and_code_pass_no_gradient() -> None:
    code = torch.randn(3, 4, requires_grad=True)
    quantized, scale = quantize(code)
    assert not quantized.requires_grad
    assert not scale.requires_grad
