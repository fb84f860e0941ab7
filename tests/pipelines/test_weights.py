"""Weights of events: they are those that made the stored slots, at every version."""

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.weights import event_weights
from schemas.errors import InputError, NotFoundError
from schemas.records import IngestRecord, VersionRecord
from store.home import Home

DAY = 86_400
Night = Callable[..., VersionRecord]


def rows(first: int, last: int) -> list[dict[str, object]]:
    return [
        {
            "user_id": user,
            "event_id": f"e{i}",
            "ts": 1_700_000_000 + i * DAY,
            "text": f"{user} {i}",
            "target": "abc"[i % 3] if i % 4 else None,
            "value": i / 7 if i % 2 else None,
        }
        for user in ("a", "b")
        for i in range(first, last)
    ]


def test_they_make_the_stored_slots(home: Home, put: Callable[..., IngestRecord], night: Night) -> None:
    put(home, rows(3, 20))
    first = night(home)
    # Late events, and a correction.
    put(home, [*rows(0, 3), *rows(20, 30), {**rows(7, 8)[0], "text": "other"}])
    second = night(home)
    for version, count in ((first, 17), (second, 30)):
        found = event_weights(home, version, "a")
        assert found.events["event_id"].to_list() == [f"e{i}" for i in range(3 if count == 17 else 0, 20 if count == 17 else 30)]
        assert found.weight.shape == (count, 4)
        np.testing.assert_allclose(found.weight.sum(0), 1)
        assert found.gap < 1e-5
        # The window of five holds the latest.
        assert found.window.tolist() == [False] * (count - 5) + [True] * 5
        assert np.isinf(found.half_lives[-1])
        assert (np.diff(found.half_lives[:-1]) > 0).all()
        effective = found.effective()
        assert ((effective >= 1 - 1e-9) & (effective <= count + 1e-9)).all()
    # A slot of hours rests on the latest day; one that never decays does not care for age.
    assert found.half_lives[0] < DAY
    assert found.weight[-1, 0] > 0.5
    assert found.weight[-1, -1] < 0.5
    # The text that counts is the corrected one, and only since the second night.
    assert found.events["text"][7] == "other"
    assert event_weights(home, first, "a").events["text"][4] == "a 7"


def test_what_has_no_weights(home: Home, put: Callable[..., IngestRecord], night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home, rows(0, 3))
    version = night(home)
    with pytest.raises(NotFoundError, match="no user 'c' at version 1"):
        event_weights(home, version, "c")
    with pytest.raises(InputError, match="pplug keep"):
        event_weights(home, version.model_copy(update={"personalizer": "pplug"}), "a")
    monkeypatch.setattr("pipelines.weights.MOST", 2)
    with pytest.raises(InputError, match="3 events"):
        event_weights(home, version, "a")
