"""Training examples with structure in them: users who are asked four texts and answer as their kind does."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from encoders.examples import Examples

Ints = npt.NDArray[np.int64]
WORDS = ("fix race", "bread", "slow film", "town")


def examples_of(
    vectors: npt.NDArray[np.float16],
    user: Ints,
    ts: Ints,
    text: Ints,
    answer: Ints,
    asked: Ints,
    answers: Sequence[str],
    tasks: Sequence[str] = (),
    task: Ints | None = None,
) -> Examples:
    """Examples of events sorted by (user, ts).

    Args:
        vectors: float16, of the texts of ``WORDS`` and then of ``answers``.
        text, answer: of each event, places in ``WORDS`` and ``answers``.
        asked: the events that are examples.
        task: of each event, its place in ``tasks``; none of them by default.
    """
    named = np.full(len(user), -1) if task is None else task
    return Examples(
        vectors=vectors,
        known=ts,
        ts=ts,
        key=np.arange(len(user)),
        text=text,
        target=len(WORDS) + answer,
        value=np.full(len(user), np.nan, np.float32),
        tasks=tasks,
        event_task=named,
        first=np.searchsorted(user, user[asked], side="left"),
        last=np.searchsorted(user, user[asked], side="right"),
        user=user[asked],
        now=ts[asked],
        query=text[asked],
        answer=len(WORDS) + answer[asked],
        task=named[asked],
        prompts=[f"{WORDS[i]} =>" for i in text[asked]],
        targets=[answers[i] for i in answer[asked]],
    )
