"""Training examples: what a nightly store would have held when each query came.

An example's history is the user's events known before the last refresh, 00:00 UTC of the query's day, minus a few
nights of extra lag in training: train as you serve. Never the same moment, never the future.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.personalizer import EventBatch
from schemas.errors import LeakError

DAY = 86_400
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Events of some users and the examples among them.

    Attributes:
        vectors: float16 ``[t, dim]``, the encoder's vectors of every distinct text and target.
        known: int64 ``[e]``, seconds; events are sorted by (user, known).
        ts, key, text, target: int64 ``[e]``; ``text`` and ``target`` index ``vectors``, -1 where there is none.
        value: float32 ``[e]``, NaN where there is none.
        tasks: names of the tasks, sorted; none where no event names one.
        event_task: int64 ``[e]``, place in ``tasks``, -1 where the event names none.
        first, last: int64 ``[n]``, the events of each example's user are ``first:last``.
        user: int64 ``[n]``.
        now: int64 ``[n]``, time of the query.
        query: int64 ``[n]``, row of the query's vector, -1 for a masked query.
        answer: int64 ``[n]``, row of the target's vector.
        task: int64 ``[n]``, place in ``tasks``, -1 for none.
        prompts, targets: what the LLM reads and should answer.
    """

    vectors: npt.NDArray[np.float16]
    known: Ints
    ts: Ints
    key: Ints
    text: Ints
    target: Ints
    value: npt.NDArray[np.float32]
    tasks: Sequence[str]
    event_task: Ints
    first: Ints
    last: Ints
    user: Ints
    now: Ints
    query: Ints
    answer: Ints
    task: Ints
    prompts: Sequence[str]
    targets: Sequence[str]

    def __len__(self) -> int:
        return len(self.now)

    def histories(
        self, rows: Ints, *, lag_nights: Ints | int = 0, keep: npt.NDArray[np.bool_] | None = None, size: int, now: Ints | None = None
    ) -> EventBatch:
        """The last ``size`` events of each example's history, as a nightly store would have held them.

        Args:
            rows: the examples.
            lag_nights: nights the store is older than the last one.
            keep: where False the history is emptied.
            now: other query times than the examples' own.

        Raises:
            LeakError: an event that was not known by the cut would be in a history.
        """
        cut = self.cut(rows, lag_nights, now)
        first, stop = self.first[rows], self.stops(rows, cut)
        if keep is not None:
            stop = np.where(keep, stop, first)
        start = np.maximum(first, stop - size)
        lengths = stop - start
        ends = np.cumsum(lengths)
        events = np.repeat(start - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
        # The search above trusts the order of ``known`` and that nothing is known before it happened; a leak would look like quality.
        late = np.maximum(self.known[events], self.ts[events]) >= np.repeat(cut + np.zeros(len(rows), np.int64), lengths)
        if late.any():
            one = int(self.key[events[late]][0])
            mend = "report this: it is a fault of ours"
            raise LeakError(f"{int(late.sum())} events of the future in training histories; one has key {one}", mend=mend)
        return self.events(events, np.repeat(np.arange(len(rows)), lengths))

    def seen(self, rows: Ints) -> Ints:
        """Every event that is in the history of one of the examples ``rows``."""
        edges = np.zeros(len(self.ts) + 1, np.int64)
        np.add.at(edges, self.first[rows], 1)
        np.add.at(edges, self.stops(rows, self.cut(rows)), -1)
        return np.flatnonzero(np.cumsum(edges[:-1]) > 0)

    def cut(self, rows: Ints, lag_nights: Ints | int = 0, now: Ints | None = None) -> Ints:
        """The second from which an example's history holds nothing: 00:00 UTC of its query's day, or so many nights earlier."""
        cut: Ints = (self.now[rows] if now is None else now) // DAY * DAY - DAY * np.asarray(lag_nights)
        return cut

    def stops(self, rows: Ints, cut: Ints) -> Ints:
        """Where each example's history ends: the first of its user's events not known before ``cut``."""
        bounds = zip(self.first[rows], self.last[rows], cut, strict=True)
        return np.array([a + np.searchsorted(self.known[a:b], c, side="left") for a, b, c in bounds], np.int64)

    def events(self, events: Ints, user: Ints) -> EventBatch:
        """The events at ``events`` as a batch, for users ``user``."""
        target = self.vectors[self.target[events]]
        target[self.target[events] < 0] = 0
        return EventBatch(user, self.ts[events], self.key[events], self.vectors[self.text[events]], target, self.value[events])

    def take(self, rows: Ints) -> "Examples":
        """The examples ``rows`` alone, over the same events."""
        arrays = {name: getattr(self, name)[rows] for name in ("first", "last", "user", "now", "query", "answer", "task")}
        return replace(self, prompts=[self.prompts[i] for i in rows], targets=[self.targets[i] for i in rows], **arrays)

    def joined(self, other: "Examples") -> "Examples":
        """These examples and then ``other``'s, over both's events; ``vectors`` and ``tasks`` are the same."""
        names = ("known", "ts", "key", "text", "target", "value", "event_task", "user", "now", "query", "answer", "task")
        fields: dict[str, Any] = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        first, last = (np.concatenate([getattr(self, n), getattr(other, n) + len(self.ts)]) for n in ("first", "last"))
        prompts, targets = [*self.prompts, *other.prompts], [*self.targets, *other.targets]
        return replace(self, first=first, last=last, prompts=prompts, targets=targets, **fields)

    def strangers(self, rows: Ints, rng: np.random.Generator) -> Ints:
        """For each example another one, of another user wherever there are two."""
        shuffled, user = rng.permutation(rows), self.user[rows]
        same = self.user[shuffled] == user
        for one in np.unique(user[same]):
            others, places = rows[user != one], same & (user == one)
            if len(others):
                shuffled[places] = rng.choice(others, int(places.sum()))
        return shuffled
