"""A generated population of any size: skewed, bursty, late and repetitive as real traffic is, with an interest planted in every user.

Each user has one interest at a time and changes it once. Four events in five are of the current interest, the rest of any. Activity
and the popularity of texts follow Zipf's law; some events open a burst of more of the same within minutes; some are heard of days
late, and some are delivered twice. Users are not kept in tables but computed from their numbers, so a billion take no memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.sources import RawBatch

Ints = npt.NDArray[np.int64]

DAY = 86_400
FIRST_DAY = 1_704_067_200  # 1 January 2024, 00:00 UTC
INTERESTS = (
    *("astronomy", "baking", "chess", "cycling", "dogs", "fashion", "fishing", "football", "gardening", "guitars", "hiking", "history"),
    *("knitting", "law", "movies", "museums", "opera", "painting", "photography", "poetry", "politics", "robots", "sailing", "skiing"),
    *("space travel", "startups", "stocks", "swimming", "tea", "theatre", "travel", "wine"),
)
KINDS = ("news about", "a question on", "a review of", "buying for", "a video on", "friends and", "learning", "an evening of")
#: Activity falls as (rank + SHIFT)^-SKEW: the busiest of a million users has a thousandth of all events, half of them six or fewer.
SKEW, SHIFT = 0.9, 50.0
ON_TOPIC, BURST, LATE, TWICE = 0.8, 0.1, 0.02, 0.005


@dataclass(frozen=True)
class PopulationSource:
    """Events that arrive on days ``first_day <= day < last_day``; every day depends on the arguments and its number alone.

    Args:
        users: how many there are; each of them has an event on one of days 0 to ``days - 1``, whatever their activity.
        daily: events that arrive in a day, beside those that are delivered twice.
        days: days over which users appear and interests change.
        first_day, last_day: days counted from the first; all of ``days`` by default.
        texts: distinct texts.
        seed: seed of everything.
    """

    users: int
    daily: int
    days: int
    first_day: int = 0
    last_day: int = -1
    texts: int = 10_000
    seed: int = 0

    @property
    def name(self) -> str:
        """Shown in records."""
        return f"population of {self.users}, days {self.first_day} to {self._last - 1}, {self.daily} events a day, seed {self.seed}"

    @property
    def _last(self) -> int:
        return self.days if self.last_day < 0 else self.last_day

    def interest(self, user: Ints, day: Ints | int) -> Ints:
        """Number of the users' interest on a day."""
        before, after = (_mixed(user, self.seed, salt) % len(INTERESTS) for salt in (1, 2))
        change = _mixed(user, self.seed, 3) % max(1, self.days)
        return np.where(day < change, before, after)

    def wordings(self) -> list[str]:
        """Every text, those of an interest together."""
        each = -(-self.texts // len(INTERESTS))
        return [f"{KINDS[i % len(KINDS)]} {interest}, part {i // len(KINDS)}" for interest in INTERESTS for i in range(each)]

    def targets(self) -> list[str]:
        """Every target."""
        return list(INTERESTS)

    def batches(self) -> Iterator[RawBatch]:
        """One batch a day, in order of arrival."""
        each = -(-self.texts // len(INTERESTS))
        texts, interests = pl.Series(self.wordings(), dtype=pl.String), pl.Series(INTERESTS, dtype=pl.String)
        for day in range(self.first_day, self._last):
            user, second, topic, item, late = self._day(day, each)
            arrival = FIRST_DAY + day * DAY + second
            rows = pl.DataFrame({"ts": arrival - late, "known_at": arrival, "user": user}).select(
                user_id="u" + pl.col("user").cast(pl.String).str.zfill(10),
                event_id=f"{day}-" + pl.int_range(pl.len()).cast(pl.String),
                ts="ts",
                known_at="known_at",
                text=texts.gather(topic * each + item),
                target=interests.gather(topic),
                line=pl.int_range(1, pl.len() + 1, dtype=pl.Int64),
            )
            twice = np.flatnonzero(np.random.default_rng([self.seed, day, 1]).random(len(rows)) < TWICE)
            yield RawBatch(f"population day {day}", pl.concat([rows, rows[twice]]))

    def _day(self, day: int, each: int) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """User, second of arrival, topic, text within it, and seconds of lateness of the day's events, in order of arrival."""
        rng = np.random.default_rng([self.seed, day])
        fresh = np.arange(day, self.users, self.days) if day < self.days else np.zeros(0, np.int64)
        drawn = max(0, self.daily - len(fresh))
        # A burst repeats the event before it: one draw in ten brings up to eight more.
        copies = np.where(rng.random(drawn) < BURST, rng.integers(2, 10, drawn), 1)
        copies = copies[: int(np.searchsorted(np.cumsum(copies), drawn, side="left")) + 1]
        begins = np.cumsum(copies) - copies
        burst = np.repeat(np.arange(len(copies)), copies)[:drawn]
        user = np.concatenate([fresh, _zipf(rng, len(copies), self.users)[burst]])
        place = np.concatenate([np.zeros(len(fresh), np.int64), np.arange(drawn) - begins[burst]])
        start = np.concatenate([rng.integers(0, DAY, len(fresh)), rng.integers(0, DAY - 600, len(copies))[burst]])
        second = start + 60 * place
        off = rng.random(len(user)) >= ON_TOPIC
        topic = np.where(off, rng.integers(0, len(INTERESTS), len(user)), self.interest(user, day))
        late = np.where(rng.random(len(user)) < LATE, (rng.exponential(3 * DAY, len(user))).astype(np.int64), 0)
        item = _zipf(rng, len(user), each)
        order = np.argsort(second, kind="stable")
        return user[order], second[order], topic[order], item[order], late[order]


def _zipf(rng: np.random.Generator, count: int, ranks: int) -> Ints:
    """Ranks ``0 … ranks - 1``, by inversion of the continuous law: no table of weights."""
    low, high = SHIFT ** (1 - SKEW), (SHIFT + ranks) ** (1 - SKEW)
    drawn = (low + rng.random(count) * (high - low)) ** (1 / (1 - SKEW)) - SHIFT
    return np.clip(drawn.astype(np.int64), 0, ranks - 1)


def _mixed(number: Ints, seed: int, salt: int) -> Ints:
    """Numbers mixed (SplitMix64's finish), non-negative: a table of random draws that is not stored."""
    with np.errstate(over="ignore"):
        x = number.astype(np.uint64) + np.uint64((seed * 4 + salt) * 0x9E3779B97F4A7C15 % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
