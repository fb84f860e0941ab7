"""Training and evaluation see what was known before a query, strictly; a leak is caught where one is planted."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoders.examples import DAY, Examples
from pipelines.encode import encode_events
from pipelines.encoder import KnownEncoder
from pipelines.evaluate import evaluate_bundle
from pipelines.examples import _similar, build_examples, read_events
from pipelines.meter import Silent
from schemas.errors import LeakError
from store.embeddings import Embeddings
from store.events import EventLog
from store.home import Home

MONDAY = 1_700_006_400 // DAY * DAY
ANSWERS = 12


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def rows() -> list[dict[str, Any]]:
    """One event a day at noon, known at once; and one of the first morning, which gives the answers away, known five days later."""
    mine = [
        {"user_id": user, "event_id": f"d{day}", "ts": iso(MONDAY + day * DAY + DAY // 2), "known_at": iso(MONDAY + day * DAY + DAY // 2),
         "text": f"q {day}", "target": f"a {day}"}
        for user in ("u", "v")
        for day in range(ANSWERS)
    ]  # fmt: skip
    late = {"user_id": "u", "event_id": "late", "ts": iso(MONDAY + 60), "known_at": iso(MONDAY + 5 * DAY + 60), "text": "the answers"}
    return [*mine, late]


@pytest.fixture
def made(home: Home, put: Callable[..., object]) -> tuple[pl.DataFrame, Examples]:
    put(home, rows(), historical=False)
    log, encoder = EventLog(home), KnownEncoder(home, home.config.encoder)
    encode_events(log, encoder, Silent(), until=home.ingests.last())
    events = read_events(log, home.config, home.ingests.last())
    return events, build_examples(events, Embeddings(home, encoder.fingerprint, encoder.dim), home.config)


def late_key(events: pl.DataFrame) -> int:
    return int(events.filter(pl.col("text") == "the answers")["event_key"][0])


def test_a_back_filled_event_is_in_no_query_older_than_its_knowledge(made: tuple[pl.DataFrame, Examples]) -> None:
    events, examples = made
    late = late_key(events)
    seen = []
    for row in range(len(examples)):
        for lag in (0, 1, 3):
            batch = examples.histories(np.array([row]), lag_nights=lag, size=99)
            cut = examples.now[row] // DAY * DAY - lag * DAY
            assert (batch.ts < cut).all()
            assert examples.now[row] not in batch.ts
            if late in batch.key:
                assert cut > MONDAY + 5 * DAY + 60
                seen.append((lag, int((examples.now[row] - MONDAY) // DAY)))
    # Known on day 5, it is there from the queries of day 6 on, a night later for each night of lag.
    assert sorted(seen) == [(lag, day) for lag in (0, 1, 3) for day in range(6 + lag, ANSWERS)]


def test_a_planted_leak_is_caught(made: tuple[pl.DataFrame, Examples]) -> None:
    """Let the events be believed known when they happened, or let their order be another one: both would show the answers early."""
    events, examples = made
    every = np.arange(len(examples))
    examples.histories(every, size=99)
    ahead = replace(examples, ts=np.where(examples.key == late_key(events), MONDAY + 30 * DAY, examples.ts))
    with pytest.raises(LeakError, match=f"key {late_key(events)}"):
        ahead.histories(every, size=99)
    # The search for the cut trusts that ``known`` ascends.
    shuffled = replace(examples, known=examples.known[::-1].copy())
    with pytest.raises(LeakError, match="events of the future"):
        shuffled.histories(every, size=99)


def test_known_late_but_believed_early_changes_the_histories(made: tuple[pl.DataFrame, Examples], home: Home) -> None:
    """What this suite looks for is there to be found: without knowledge time, the back-filled event is seen five days too early."""
    events, _ = made
    encoder = KnownEncoder(home, home.config.encoder)
    believed = events.with_columns(known=pl.col("ts")).sort("user_key", "user_id", "known", "event_key")
    leaky = build_examples(believed, Embeddings(home, encoder.fingerprint, encoder.dim), home.config)
    days = [
        int((leaky.now[row] - MONDAY) // DAY)
        for row in range(len(leaky))
        if late_key(events) in leaky.histories(np.array([row]), size=99).key
    ]
    assert min(days) == 1


def test_a_corrected_event_is_known_from_its_correction(home: Home, put: Callable[..., object]) -> None:
    put(home, rows(), historical=False)
    first = {**rows()[0], "text": "corrected", "known_at": iso(MONDAY + 8 * DAY + 5)}
    put(home, [first], historical=False)
    events = read_events(EventLog(home), home.config, home.ingests.last())
    assert events.filter(pl.col("text") == "corrected")["known"].to_list() == [MONDAY + 8 * DAY + 5]
    assert len(events.filter(event_key=events.filter(pl.col("text") == "corrected")["event_key"][0])) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40), st.integers(0, 9))
def test_tuning_shows_nothing_that_was_not_known(events: list[tuple[int, int, int]], seed: int) -> None:
    """An event that became known late may itself be asked for: what came between must not be shown to it."""
    events = sorted((user, ts + late, ts) for user, ts, late in events)
    user, known, ts = (np.array([event[i] for event in events], np.int64) for i in range(3))
    vectors = np.random.default_rng(seed).standard_normal((len(user), 4)).astype(np.float16)
    found = _similar(vectors, user, known, ts)
    for row, shown in enumerate(found.tolist()):
        allowed = [i for i in range(max(0, row - 16), row) if user[i] == user[row] and known[i] < ts[row]]
        best = sorted(allowed, key=lambda i: -float(vectors[row].astype(np.float32) @ vectors[i].astype(np.float32)))
        assert {i for i in shown if i >= 0} <= set(allowed)
        assert sum(i >= 0 for i in shown) == min(2, len(best))


def test_evaluation_refuses_what_the_states_may_know() -> None:
    bundle = SimpleNamespace(manifest={"as_of": 1000}, path="a bundle")
    events = pl.DataFrame({"user_id": ["u", "v"], "ts": [1000, 1001], "text": ["q", "q"], "target": ["a", "a"]})
    with pytest.raises(LeakError, match="1 of 2 events are not later than the bundle's as_of, 1000"):
        evaluate_bundle(cast(Any, bundle), cast(Any, None), events)
