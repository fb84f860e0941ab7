"""Generated histories with planted, drifting tastes: what the demo runs on, and what a refresh must recover.

In each of several situations a user has one favourite of a few choices and takes it nine times in ten; each favourite changes once
at a random time. A text names the situation in one of many wordings, the target is the choice: a model that does not know the user
can only guess.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.sources import RawBatch

#: Situation → choices. Words, not codes: the encoder is to have something to embed.
TASTES = {
    "breakfast": ("porridge", "pancakes", "omelette", "fruit salad", "toast"),
    "the way to work": ("bicycle", "train", "bus", "car", "walking"),
    "music while cooking": ("jazz", "metal", "folk", "techno", "opera"),
    "an evening at home": ("chess", "knitting", "a thriller", "painting", "gardening"),
    "a weekend trip": ("mountains", "seaside", "museum", "festival", "forest"),
    "a present for a friend": ("a book", "a plant", "chocolate", "a candle", "a game"),
}
WORDINGS = ("{}", "thinking of {}", "planning {}", "time for {}", "ideas for {}", "what about {}", "choose {}", "again {}")
MOODS = ("", " please", " today", " quickly", " in the rain", " with a guest", " for once", " as always")

DAY = 86_400
FIRST_DAY = 1_736_121_600  # Monday, 6 January 2025, 00:00 UTC


@dataclass(frozen=True)
class SyntheticSource:
    """Events of ``users`` users on days ``first_day <= day < last_day``; every day depends on seed and day alone.

    Args:
        users: how many users there are.
        first_day, last_day: days counted from the first.
        days: days over which favourites drift (at least ``last_day``).
        daily: events a user has a day, on average; a few users have many.
        seed: seed of tastes and events.
    """

    users: int
    first_day: int
    last_day: int
    days: int
    daily: float = 0.5
    seed: int = 0

    @property
    def name(self) -> str:
        """Shown in records."""
        return f"synthetic: {self.users} users, days {self.first_day} to {self.last_day - 1}, seed {self.seed}"

    def batches(self) -> Iterator[RawBatch]:
        """One batch a day, in order of time."""
        rng = np.random.default_rng(self.seed)
        situations, choices = len(TASTES), len(next(iter(TASTES.values())))
        before = rng.integers(0, choices, (self.users, situations))
        after = rng.integers(0, choices, (self.users, situations))
        change = rng.integers(0, self.days, (self.users, situations))
        activity = rng.lognormal(0.0, 1.0, self.users)
        rate = self.daily * activity / activity.mean()
        for day in range(self.first_day, self.last_day):
            today = np.random.default_rng([self.seed, day])
            user = np.repeat(np.arange(self.users), today.poisson(rate))
            size = len(user)
            situation = today.integers(0, situations, size)
            favourite = np.where(change[user, situation] > day, before[user, situation], after[user, situation])
            choice = np.where(today.random(size) < 0.9, favourite, today.integers(0, choices, size))
            rows = pl.DataFrame(
                {
                    "user_id": _pick([f"user-{i:07}" for i in range(self.users)], user),
                    "event_id": f"{day}-" + pl.Series(np.arange(size)).cast(pl.String),
                    "ts": FIRST_DAY + day * DAY + np.sort(today.integers(0, DAY, size)),
                    "text": _texts(situation, today.integers(0, len(WORDINGS), size), today.integers(0, len(MOODS), size)),
                    "target": _pick([c for options in TASTES.values() for c in options], situation * choices + choice),
                    "line": np.arange(1, size + 1),
                }
            )
            yield RawBatch(f"synthetic day {day}", rows)


def _pick(words: list[str], index: np.ndarray) -> pl.Series:
    return pl.Series(words, dtype=pl.String).gather(index)


def _texts(situation: np.ndarray, wording: np.ndarray, mood: np.ndarray) -> pl.Series:
    every = [w.format(s) + m for s in TASTES for w in WORDINGS for m in MOODS]
    return _pick(every, (situation * len(WORDINGS) + wording) * len(MOODS) + mood)
