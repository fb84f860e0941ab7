"""Checks before promotion: each figure, and the line it crosses."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.checks import check_version, complaint
from pipelines.drift import domain_auc
from pipelines.update import Shifted
from schemas.config import CheckConfig
from schemas.records import VersionRecord
from store.comparison import Comparison
from store.home import Home

FINE = Shifted([], changed=10, users=10, events=10, new_events=10, bad=0, norm_median=1.0, norm_max=2.0)


def draw(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_the_classifier() -> None:
    before = draw(200, 16)
    assert domain_auc(before, before, 0) == 0.5
    assert domain_auc(before, -before + 3, 0) > 0.99
    assert 0.3 < domain_auc(before, draw(200, 16, 1), 0) < 0.7
    some = before.copy()
    some[:20] += 0.3
    assert 0.4 < domain_auc(before, some, 0) < 0.65, "a night that touched a tenth of the users, a little"
    assert domain_auc(before[:0], before[:0], 0) == domain_auc(np.ones((9, 3), np.float32), np.ones((9, 3), np.float32), 0) == 0.5
    assert domain_auc(before[:4], before[:4] + 5, 0) >= 0.5
    flat = draw(100, 5, 2) @ draw(5, 512, 3)
    assert domain_auc(flat, flat, 0) == 0.5, "equal rows of few dimensions cannot be told apart either"
    assert domain_auc(before, -before + 3, 0) == domain_auc(before, -before + 3, 0)


def drift(n: int, moved: float) -> Comparison:
    """A panel of ``n`` users of whom a share became strangers."""
    before = draw(n, 8)
    after = before.copy()
    after[: int(moved * n)] = draw(int(moved * n), 8, 1) + 5
    shifts = np.where(np.arange(n) < moved * n, 1.2, 0.01).astype(np.float32)
    return Comparison(one_line=True, rewritten=n, shifts=shifts, panel=[f"u{i}" for i in range(n)], before=before, after=after)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, []),
        ({"users": 90}, ["coverage"]),
        ({"bad": 1}, ["bad_states"]),
        ({"zero": 1}, ["zero_states"]),
        ({"norm_max": 21.0}, ["norm_ratio"]),
        ({"prefix": 11.0}, ["prefix_ratio"]),
        ({"prefix": float("inf")}, ["prefix_ratio"]),
        ({"prefix": None}, []),
        ({"drift": drift(200, 0.1)}, []),
        ({"drift": drift(200, 1.0)}, ["shift_p50", "neighbour_overlap", "domain_auc"]),
        ({"drift": drift(99, 1.0)}, []),
    ],
)
def test_the_line_that_is_crossed(change: dict[str, Any], failed: list[str]) -> None:
    shard = Shifted(**{**vars(FINE), **{k: v for k, v in change.items() if k in vars(FINE)}})
    checks = check_version(CheckConfig(), change.get("users", 100), 100, [shard], change.get("drift"), change.get("prefix", 1.0))
    assert [c.name for c in checks if not c.passed] == failed
    said = complaint(checks)
    assert all(f"{name} is " in said for name in failed)
    assert bool(said) == bool(failed)
    # Figures are stored in the version's record, whether they passed or not.
    assert all(np.isfinite(c.value) for c in checks)


def test_every_line_can_be_moved() -> None:
    loose = CheckConfig(max_shift_p50=2, min_neighbour_overlap=0, max_domain_auc=1, min_coverage=0, max_prefix_ratio=1e9)
    assert not complaint(check_version(loose, 1, 100, [FINE], drift(200, 1.0), 11.0))
    strict = CheckConfig(max_shift_p99=0.001, min_users=3)
    assert "shift_p99 is 1.2, the line is 0.001" in complaint(check_version(strict, 100, 100, [FINE], drift(200, 0.1), None))


def test_a_nights_figures(new_home: Callable[..., Home], put: Callable[..., object], night: Callable[..., VersionRecord]) -> None:
    """Of a quiet night, a wild one and a rebuild, from real states."""
    # Lines that nothing crosses: a version that fails is not what the next one is compared with.
    lines = CheckConfig(min_users=20, max_shift_p50=2, max_shift_p99=2, min_neighbour_overlap=0, max_domain_auc=1)
    home = new_home(checks=lines, shard_events=4096)
    rng = random.Random(0)

    def events(users: int, each: int, day: int, text: str) -> list[dict[str, Any]]:
        return [
            {"user_id": f"u{u}", "ts": 1_700_000_000 + day * 86_400 + i * 7_000, "text": f"{text} {rng.randrange(30)}"}
            for u in range(users) for i in range(each)
        ]  # fmt: skip

    put(home, events(60, 12, 0, "item"))
    first = night(home)
    assert {c.name for c in first.checks} == {"coverage", "bad_states", "zero_states", "norm_ratio"}
    put(home, events(25, 1, 1, "item"))
    quiet = {c.name: c.value for c in night(home).checks}
    put(home, events(60, 40, 3, "zzz"))
    wild = {c.name: c.value for c in night(home).checks}
    rebuilt = {c.name: c.value for c in night(home, full=True).checks}
    assert list(quiet)[4:] == ["shift_p50", "shift_p99", "neighbour_overlap", "domain_auc"]
    assert wild["shift_p50"] > 2 * quiet["shift_p50"] > 0
    assert wild["neighbour_overlap"] < quiet["neighbour_overlap"]
    assert wild["domain_auc"] > quiet["domain_auc"]
    assert rebuilt["shift_p99"] < 1e-6
    assert rebuilt["neighbour_overlap"] > 0.99
    assert list(home.versions.get(2).model_dump()["checks"][4]) == ["name", "value", "limit", "passed"]  # type: ignore[union-attr]


def test_the_states_of_failed_versions_are_still_there() -> None:
    bad = check_version(CheckConfig(), 100, 100, [replace(FINE, zero=1)], None, None)
    assert "zero_states" in complaint(bad)
    assert not complaint(check_version(CheckConfig(), 100, 100, [FINE], None, None))
    assert "zero_states" in complaint(check_version(CheckConfig(), 100, 100, [FINE], None, None, bad))
