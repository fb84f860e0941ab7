"""Users of other tastes: training examples with their labels exchanged.

A head must learn what a history says whatever labels it holds, but shows of each label come from a few users only. So every user is
copied under a permutation π of the labels, drawn for each: an event of label y becomes some event of label π(y), the query some query of
label π(y), at the same times. Shares, order and repeats of a user's labels stay, and every text still fits its label. Where there are
several tasks, each has labels of its own: what one task calls a label is never put in the place of another's.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from encoders.examples import Examples, Ints

#: Examples of a label, on average, below which targets count as free text, which nothing can be exchanged for.
REPEATS = 10
#: Batches after which other copies are drawn.
REDRAW = 25


def labelled(examples: Examples, rows: Ints) -> Ints:
    """Those of the examples ``rows`` whose task asks for labels that repeat."""
    found = [np.zeros(0, np.int64)]
    for task in np.unique(examples.task[rows]):
        mine = rows[examples.task[rows] == task]
        if len(mine) >= REPEATS * len(np.unique(examples.answer[mine])) > REPEATS:
            found.append(mine)
    return np.concatenate(found)


def batches(
    examples: Examples, rows: Ints, size: int, share: float, rng: np.random.Generator
) -> Iterator[tuple[Examples, Ints, npt.NDArray[np.bool_]]]:
    """Batches of ``rows`` without end, about ``share`` from copies where labels repeat: examples, rows of them, which are copies."""
    copied = labelled(examples, rows) if share > 0 else rows[:0]
    shown, count = examples, 0
    while True:
        if len(copied) and count % REDRAW == 0:
            shown = examples.joined(relabelled(examples, copied, rng))
        chosen, copy = rng.choice(rows, size), np.zeros(size, bool)
        if len(copied):
            copies = rng.integers(len(examples), len(shown), size)
            copy = (rng.random(size) < share) & np.isin(chosen, copied)
            chosen = np.where(copy, copies, chosen)
        yield shown, chosen, copy
        count += 1


def relabelled(examples: Examples, rows: Ints, rng: np.random.Generator) -> Examples:
    """The examples ``rows`` as users of other tastes would have given them; their ``user`` is -1.

    Only events and queries that ``rows`` themselves show are put in the place of others.
    """
    seen, width = examples.seen(rows), len(examples.vectors)
    targets = _numbered(examples.target, examples.event_task, width)
    answers = _numbered(examples.answer[rows], examples.task[rows], width)
    labels = np.intersect1d(targets[seen], answers)
    labels = labels[labels >= 0]
    users, owner = np.unique(examples.first[rows], return_inverse=True)
    # Labels are in the order of their tasks; those of each change places among themselves.
    groups = np.split(np.arange(len(labels)), np.flatnonzero(np.diff(labels // width)) + 1)
    exchange = np.concatenate([rng.permuted(np.tile(group, (len(users), 1)), axis=1) for group in groups], axis=1)

    event = np.arange(len(examples.ts))
    whose = np.searchsorted(users, event, side="right") - 1
    label = _places(labels, targets)
    swapped = np.flatnonzero((label >= 0) & (whose >= 0))
    wanted = exchange[whose[swapped], label[swapped]]
    event[swapped] = _drawn(seen, label[seen], wanted, rng)

    asked = rows.copy()
    label = _places(labels, answers)
    swapped = np.flatnonzero(label >= 0)
    wanted = exchange[owner[swapped], label[swapped]]
    asked[swapped] = _drawn(rows, label, wanted, rng)
    return replace(
        examples,
        text=examples.text[event],
        target=examples.target[event],
        value=examples.value[event],
        first=examples.first[rows],
        last=examples.last[rows],
        user=np.full(len(rows), -1),
        now=examples.now[rows],
        query=examples.query[asked],
        answer=examples.answer[asked],
        task=examples.task[rows],
        prompts=[examples.prompts[i] for i in asked],
        targets=[examples.targets[i] for i in asked],
    )


def _numbered(label: Ints, task: Ints, width: int) -> Ints:
    """A number for each label of each task, by task and then label; -1 where there is no label."""
    found: Ints = np.where(label >= 0, (task + 1) * width + label, -1)
    return found


def _places(labels: Ints, numbers: Ints) -> Ints:
    """Place of each number among ``labels``, ascending; -1 where it is none of them."""
    found = np.searchsorted(labels, numbers)
    there = found < len(labels)
    there[there] = labels[found[there]] == numbers[there]
    return np.where(there, found, -1)


def _drawn(pool: Ints, label: Ints, wanted: Ints, rng: np.random.Generator) -> Ints:
    """For each wanted label a random member of ``pool`` that has it."""
    order = np.argsort(label, kind="stable")
    start = np.searchsorted(label[order], wanted, side="left")
    stop = np.searchsorted(label[order], wanted, side="right")
    found: Ints = pool[order[rng.integers(start, stop)]]
    return found
