"""Who appeared, vanished and moved between two versions, read from what changed alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from schemas.records import VersionRecord
from store import comparison
from store.comparison import View, compare
from store.history import user_history
from store.home import Home
from store.states import States

Wrote = Callable[..., VersionRecord]


def test_a_night(place: str, new_home: Callable[..., Home], wrote: Wrote) -> None:
    home = new_home(place)
    first = wrote(home, 1, {f"u{n}": [1, n, 0, 0] for n in range(50)})
    second = wrote(home, 2, {"u1": [1, 1, 0, 0], "u2": [-1, -2, 0, 0], "u3": [0, 0, 1, 0], "u4": None, "new": [0, 0, 0, 1]}, first)
    found = compare(View.of(home, first), View.of(home, second), top=2)
    assert (found.one_line, found.appeared, found.vanished, found.rewritten, found.moved) == (True, 1, 1, 3, 2)
    assert sorted(found.shifts.tolist()) == pytest.approx([0, 1, 2])
    assert [(m.user_id, round(m.shift, 6), m.events_before, m.events_after) for m in found.movers] == [("u2", 2, 1, 2), ("u3", 1, 1, 2)]
    assert found.quantiles() == pytest.approx({"p50": 1, "p90": 1.8, "p99": 1.98, "max": 2})
    assert len(found.panel) == 49
    assert 0.5 < found.overlap < 1
    back = compare(View.of(home, second), View.of(home, first))
    assert (back.appeared, back.vanished, back.moved) == (1, 1, 2)
    same = compare(View.of(home, second), View.of(home, second))
    assert (same.appeared, same.vanished, same.rewritten, same.moved, same.movers, same.quantiles()) == (0, 0, 0, 0, [], {})
    assert (same.overlap, len(same.panel)) == (1, 50)


def test_only_what_changed_is_read(home: Home, wrote: Wrote, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [wrote(home, 1, {f"u{n}": [1, n, 0, 0] for n in range(500)})]
    for run in range(2, 5):
        versions.append(wrote(home, run, {f"u{run}": [run, 0, 0, 1]}, versions[-1]))
    asked: list[list[int]] = []
    read = States.read

    def spy(self: States, *given: Any, **options: Any) -> Any:
        if options.get("keys") is not None:
            asked.append(options["keys"])
        return read(self, *given, **options)

    monkeypatch.setattr(States, "read", spy)
    monkeypatch.setattr(comparison, "_fill_panel", lambda *given: None)
    found = compare(View.of(home, versions[1]), View.of(home, versions[3]))
    assert (found.rewritten, [m.user_id for m in found.movers]) == (2, ["u3", "u4"] if found.movers[0].user_id == "u3" else ["u4", "u3"])
    assert [len(keys) for keys in asked] == [2, 2]


def test_many_changed_users_are_told_by_ranges(home: Home, wrote: Wrote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps and the limit beyond which all users are looked at change nothing in the answer."""
    vectors = np.random.default_rng(0).standard_normal((2, 300, 4)).astype(np.float32)
    first = wrote(home, 1, {f"u{n}": vectors[0, n].tolist() for n in range(300)})
    second = wrote(home, 2, {f"u{n}": vectors[1, n].tolist() for n in range(0, 320, 2) if n < 300} | {"x": [1, 2, 3, 4]}, first)
    answers = []
    for step, many in ((32_768, 8_000_000), (7, 8_000_000), (64, 20)):
        monkeypatch.setattr(comparison, "STEP", step)
        monkeypatch.setattr(comparison, "MANY", many)
        found = compare(View.of(home, first), View.of(home, second), top=5)
        assert (found.appeared, found.vanished, found.moved) == (1, 0, 150)
        answers.append((sorted(found.shifts[found.shifts > 0].tolist()), found.movers))
    assert answers[0] == answers[1] == answers[2]


def test_across_lines_nothing_is_subtracted(home: Home, wrote: Wrote) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 4))
    rotation, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    first = wrote(home, 1, {f"u{n}": vectors[n].tolist() for n in range(200)})
    other = wrote(
        home, 2, {f"u{n}": (vectors[n] @ rotation).tolist() for n in range(3, 201) if n < 200} | {"x": [1, 0, 0, 0]}, aggregator="cd" * 32
    )
    found = compare(View.of(home, first), View.of(home, other))
    assert (found.one_line, found.appeared, found.vanished, found.rewritten, found.movers) == (False, 1, 3, 0, [])
    assert len(found.panel) == 197
    assert found.overlap > 0.95
    assert found.alignment == pytest.approx(1, abs=1e-4)
    assert found.quantiles() == {}


def test_a_panel_is_the_same_users_in_every_version(home: Home, wrote: Wrote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "PANEL", 30)
    first = wrote(home, 1, {f"u{n}": [1, n, 0, 0] for n in range(400)})
    second = wrote(home, 2, {f"v{n}": [1, n, 0, 0] for n in range(40)}, first)
    ids = [set(View.of(home, v).panel(5, v.users, ["user_id"]).column("user_id").to_pylist()) for v in (first, second)]
    assert 15 <= len(ids[0]) <= 70
    assert ids[0] == {user for user in ids[1] if user.startswith("u")}
    other = set(View.of(home, first).panel(6, 400, ["user_id"]).column("user_id").to_pylist())
    assert other != ids[0]


def test_history(home: Home, wrote: Wrote) -> None:
    first = wrote(home, 1, {"a": [1, 0, 0, 0], "b": [1, 0, 0, 0]})
    second = wrote(home, 2, {"a": [0, 1, 0, 0]}, first)
    third = wrote(home, 3, {"b": [0, 1, 0, 0]}, second)
    wrote(home, 7, {"a": [1, 1, 1, 1]}, aggregator="cd" * 32)
    wrote(home, 4, {"a": None}, third)
    found = user_history(home, "a")
    assert [(e.version, e.present, e.changed, e.events) for e in found] == [
        (1, True, True, 1), (2, True, True, 2), (3, True, False, 2), (4, True, True, 7), (5, False, True, 0)
    ]  # fmt: skip
    assert [e.shift for e in found] == [None, 1, 0, None, None]
    assert [e.norm for e in found] == [0.5, 0.5, 0.5, 1, None]
    assert not any(e.present for e in user_history(home, "a' OR '1'='1"))
