"""Examples with histories that say less, or later than any night: what an arm is compared with."""

from dataclasses import replace

import numpy as np

from encoders.examples import Examples, Ints
from encoders.personalizer import EventBatch

#: The items that training shows, and that tide's window holds.
LATEST = 64


def without_histories(examples: Examples) -> Examples:
    """The same examples with every history empty."""
    return replace(examples, last=examples.first)


def of_strangers(examples: Examples, seed: int) -> Examples:
    """The same examples, each with the history of some example of another user, cut at the example's own night."""
    other = examples.strangers(np.arange(len(examples)), np.random.default_rng(seed))
    return replace(examples, first=examples.first[other], last=examples.last[other])


class LiveExamples(Examples):
    """Examples whose histories hold all that was known the second before the query, which no nightly store has."""

    def cut(self, rows: Ints, lag_nights: Ints | int = 0, now: Ints | None = None) -> Ints:
        """The query's own second; such histories have no age."""
        return self.now[rows] if now is None else now


class ShuffledDates(Examples):
    """Examples whose histories keep their events and lose their order: the times of the latest ``LATEST`` are permuted."""

    def events(self, events: Ints, user: Ints) -> EventBatch:
        """As ``Examples.events``, with ``ts`` permuted among each user's latest; earlier ones would come to be recent."""
        batch = super().events(events, user)
        scattered = np.random.default_rng(len(events)).random(len(events))
        ends = np.searchsorted(user, user, side="right")
        earlier = np.arange(len(events)) < ends - LATEST
        scattered[earlier] = -1 - (ends - np.arange(len(events)))[earlier]
        place, source = np.lexsort((np.arange(len(events)), user)), np.lexsort((scattered, user))
        ts = batch.ts.copy()
        ts[place] = batch.ts[source]
        return replace(batch, ts=ts)
