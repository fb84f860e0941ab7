"""Copies of users under other labels: the same lives, other tastes."""

from dataclasses import replace

import numpy as np
import pytest

from encoders.examples import DAY, Examples
from encoders.relabelling import labelled, relabelled

USERS, DAYS, LABELS, TEXTS = 9, 30, 5, 20
START = 1_700_000_000 // DAY * DAY


@pytest.fixture
def examples() -> Examples:
    """An event a day, all but the first an example; a text's number tells its label, one in seven events has none."""
    rng = np.random.default_rng(0)
    count = USERS * DAYS
    user, ts = np.repeat(np.arange(USERS), DAYS), START + np.tile(np.arange(DAYS), USERS) * DAY
    label = rng.integers(0, LABELS, count)
    text = LABELS + label * TEXTS + rng.integers(0, TEXTS, count)
    target = np.where(np.arange(count) % 7 == 3, -1, label)
    asked = np.flatnonzero((ts > START) & (target >= 0))
    return Examples(
        vectors=np.ones((LABELS + LABELS * TEXTS, 2), np.float16),
        known=ts,
        ts=ts,
        key=np.arange(count),
        text=text,
        target=target,
        value=label.astype(np.float32),
        tasks=(),
        event_task=np.full(count, -1),
        first=user[asked] * DAYS,
        last=user[asked] * DAYS + DAYS,
        user=user[asked],
        now=ts[asked],
        query=text[asked],
        answer=label[asked],
        task=np.full(len(asked), -1),
        prompts=[f"text {i}" for i in text[asked]],
        targets=[f"label {i}" for i in label[asked]],
    )


def label_of(text: np.ndarray) -> np.ndarray:
    return (text - LABELS) // TEXTS


def test_a_copy_is_the_same_user_with_other_labels(examples: Examples) -> None:
    rows = np.flatnonzero(examples.now < START + 20 * DAY)
    made = relabelled(examples, rows, np.random.default_rng(1))
    assert (made.user == -1).all()
    np.testing.assert_array_equal(made.now, examples.now[rows])
    exchanged = 0
    for user in range(USERS):
        mine = np.flatnonzero(examples.user[rows] == user)
        held = np.arange(user * DAYS, user * DAYS + DAYS)
        held = held[examples.target[held] >= 0]
        pairs = set(zip(examples.target[held].tolist(), made.target[held].tolist(), strict=True))
        pairs |= set(zip(examples.answer[rows[mine]].tolist(), made.answer[mine].tolist(), strict=True))
        # One permutation for the user's events and queries.
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        exchanged += sum(a != b for a, b in pairs)
        np.testing.assert_array_equal(made.target[held], label_of(made.text[held]))
        np.testing.assert_array_equal(made.target[held], made.value[held])
    assert exchanged > USERS
    bare = examples.target < 0
    np.testing.assert_array_equal(made.text[bare], examples.text[bare])
    np.testing.assert_array_equal(made.answer, label_of(made.query))
    assert made.prompts == [f"text {i}" for i in made.query]
    assert made.targets == [f"label {i}" for i in made.answer]


def test_nothing_is_shown_that_the_examples_do_not_show(examples: Examples) -> None:
    """What comes after the examples, and users without one, stay out."""
    rows = np.flatnonzero((examples.now < START + 20 * DAY) & (examples.user < 5))
    made = relabelled(examples, rows, np.random.default_rng(1))
    shown = set(examples.text[examples.seen(rows)].tolist())
    batch = made.histories(np.arange(len(rows)), size=DAYS)
    events = np.concatenate(
        [np.arange(a, b) for a, b in zip(made.first, made.stops(np.arange(len(rows)), made.now // DAY * DAY), strict=True)]
    )
    assert len(batch) == len(events)
    assert set(made.text[events].tolist()) <= shown
    assert set(made.query.tolist()) <= set(examples.query[rows].tolist())


def test_labels_repeat_and_free_text_does_not(examples: Examples) -> None:
    rows = np.arange(len(examples))
    assert labelled(examples, rows).tolist() == rows.tolist()
    assert not len(labelled(replace(examples, answer=rows), rows))
    assert not len(labelled(replace(examples, answer=np.zeros(len(rows), np.int64)), rows))
    mixed = replace(examples, tasks=["free", "labels"], task=rows % 2, answer=np.where(rows % 2, examples.answer, rows))
    assert labelled(mixed, rows).tolist() == rows[1::2].tolist()


def test_labels_of_one_task_stay_out_of_another(examples: Examples) -> None:
    """Two tasks that share their labels, and events of neither: each exchanges its own among themselves, one way for a user."""
    event_task = np.arange(len(examples.ts)) % 3 - 1
    # Of each label, texts of the second task are told by their number.
    task = np.searchsorted(examples.ts[:DAYS], examples.now) % 3 - 1
    made = replace(examples, tasks=["a", "b"], event_task=event_task, task=task)
    rows = np.flatnonzero(made.now < START + 25 * DAY)
    copied = relabelled(made, rows, np.random.default_rng(1))
    np.testing.assert_array_equal(copied.event_task, event_task)
    np.testing.assert_array_equal(copied.task, task[rows])
    known = {number: set(zip(made.text[event_task == number], made.target[event_task == number], strict=True)) for number in (-1, 0, 1)}
    for number in (-1, 0, 1):
        mine = event_task == number
        assert set(zip(copied.text[mine], copied.target[mine], strict=True)) <= known[number]
        asked = copied.task == number
        own = task[rows] == number
        pairs = set(zip(made.query[rows][own], made.answer[rows][own], strict=True))
        assert set(zip(copied.query[asked], copied.answer[asked], strict=True)) <= pairs
    exchanges = [
        {(a, b) for a, b in zip(made.target[held], copied.target[held], strict=True) if a >= 0}
        for number in (0, 1)
        for held in [np.flatnonzero((event_task == number) & (np.arange(len(event_task)) < DAYS))]
    ]
    assert exchanges[0] != exchanges[1], "another exchange for each task"
