"""Users of other tastes: training examples with their labels exchanged.

A head must learn what a history says whatever labels it holds, but shows of each label come from a few users only. So every user is
copied under a permutation π of the labels, drawn for each: an event of label y becomes some event of label π(y), the query some query of
label π(y), at the same times. Shares, order and repeats of a user's labels stay, and every text still fits its label.
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


def labelled(examples: Examples, rows: Ints) -> bool:
    """Whether the examples ``rows`` ask for labels that repeat."""
    answers = examples.answer[rows]
    return len(rows) >= REPEATS * len(np.unique(answers)) > REPEATS


def batches(
    examples: Examples, rows: Ints, size: int, share: float, rng: np.random.Generator
) -> Iterator[tuple[Examples, Ints, npt.NDArray[np.bool_]]]:
    """Batches of ``rows`` without end, about ``share`` from copies where labels repeat: examples, rows of them, which are copies."""
    shown, copying, count = examples, share > 0 and labelled(examples, rows), 0
    while True:
        if copying and count % REDRAW == 0:
            shown = examples.joined(relabelled(examples, rows, rng))
        chosen, copy = rng.choice(rows, size), np.zeros(size, bool)
        if copying:
            copies = rng.integers(len(examples), len(shown), size)
            copy = rng.random(size) < share
            chosen = np.where(copy, copies, chosen)
        yield shown, chosen, copy
        count += 1


def relabelled(examples: Examples, rows: Ints, rng: np.random.Generator) -> Examples:
    """The examples ``rows`` as users of other tastes would have given them; their ``user`` is -1.

    Only events and queries that ``rows`` themselves show are put in the place of others.
    """
    seen = examples.seen(rows)
    labels = np.intersect1d(examples.target[seen], examples.answer[rows])
    labels = labels[labels >= 0]
    place = np.full(len(examples.vectors) + 1, -1)
    place[labels] = np.arange(len(labels))
    users, owner = np.unique(examples.first[rows], return_inverse=True)
    exchange = rng.permuted(np.tile(np.arange(len(labels)), (len(users), 1)), axis=1)

    event = np.arange(len(examples.ts))
    whose = np.searchsorted(users, event, side="right") - 1
    label = place[examples.target]
    swapped = np.flatnonzero((label >= 0) & (whose >= 0))
    wanted = exchange[whose[swapped], label[swapped]]
    event[swapped] = _drawn(seen, place[examples.target[seen]], wanted, rng)

    asked = rows.copy()
    label = place[examples.answer[rows]]
    swapped = np.flatnonzero(label >= 0)
    wanted = exchange[owner[swapped], label[swapped]]
    asked[swapped] = _drawn(rows, place[examples.answer[rows]], wanted, rng)
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
        prompts=[examples.prompts[i] for i in asked],
        targets=[examples.targets[i] for i in asked],
    )


def _drawn(pool: Ints, label: Ints, wanted: Ints, rng: np.random.Generator) -> Ints:
    """For each wanted label a random member of ``pool`` that has it."""
    order = np.argsort(label, kind="stable")
    start = np.searchsorted(label[order], wanted, side="left")
    stop = np.searchsorted(label[order], wanted, side="right")
    found: Ints = pool[order[rng.integers(start, stop)]]
    return found
