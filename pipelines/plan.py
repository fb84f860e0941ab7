"""Plans: how a refresh is cut into shards, decided and stored before the work starts.

Keys are hashes, so ranges of keys hold events evenly; a histogram of the key's highest bits, counted in one streamed pass, makes
shards of about equal size whatever the number of users.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from schemas.config import RefreshConfig
from schemas.records import Plan, Shard
from schemas.states import StateSpec
from store.events import EventLog
from store.home import Home, new_run

#: Highest bits of a key that the histogram tells apart.
BITS = 16
TEXT_KEYS = ("text_key", "target_key")


@dataclass(frozen=True)
class Size:
    """What one shard may hold, and what memory the work on an event and on a user takes."""

    events: int
    users: int
    bytes: int
    event_bytes: int
    user_bytes: int

    @classmethod
    def of(cls, config: RefreshConfig, spec: StateSpec, dim: int) -> "Size":
        """Limits of the configuration for states of ``spec`` and text vectors of ``dim``."""
        item = sum(c.width * np.dtype(c.dtype).itemsize for c in spec.columns if c.per == "item") * spec.capacity
        user = sum(c.width * np.dtype(c.dtype).itemsize for c in spec.columns if c.per == "user")
        # Events: two float16 vectors, read distinct and then laid out by row, beside the row itself. States: as read, as arrays,
        # as float64 sums before and after, as written.
        return cls(config.shard_events, config.shard_users, config.shard_megabytes << 20, 4 * 2 * dim + 512, 6 * user + 4 * item + 512)


def histogram(parts: Iterable[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Counts by the highest ``BITS`` of signed keys, ascending."""
    counts = np.zeros(1 << BITS, np.int64)
    for keys in parts:
        counts += np.bincount((keys >> (64 - BITS)) + (1 << (BITS - 1)), minlength=1 << BITS)
    return counts


def cut(counts: npt.NDArray[np.int64], size: int, *also: tuple[npt.NDArray[np.int64], int]) -> tuple[Shard, ...]:
    """Ranges of keys that hold about ``size`` events each, and no more than their limit of ``also``; empty ranges are left out.

    Args:
        counts: events by the keys' highest bits.
        also: other counts by the same bits, each with what a shard may hold of it.
    """
    sums = [(np.concatenate([[0], np.cumsum(counts)]), limit) for counts, limit in ((counts, size), *also)]
    held, width, shards = sums[0][0], 1 << (64 - BITS), list[Shard]()
    filled = np.append(np.flatnonzero(counts), len(counts))
    start = int(filled[0])
    while start < len(counts):
        # A bucket is not cut, however much it holds.
        stop = max(start + 1, min(int(np.searchsorted(total, total[start] + limit, side="right")) - 1 for total, limit in sums))
        following = int(filled[np.searchsorted(filled, stop)])
        low, high = (start - len(counts) // 2) * width, (following - len(counts) // 2) * width - 1
        shards.append(Shard(index=len(shards), low=low, high=high, events=int(held[following] - held[start])))
        start = following
    return tuple(shards)


def shards_by(log: EventLog, key: str, *, after: int, until: int, size: int) -> tuple[Shard, ...]:
    """Shards of the events of ingests ``after + 1 … until`` by a key column."""
    return cut(histogram(batch[key].drop_nulls().to_numpy() for batch in log.scan([key], after=after, until=until)), size)


def text_shards(log: EventLog, *, after: int, until: int, size: int) -> tuple[Shard, ...]:
    """Shards of about ``size`` distinct texts and targets of ingests ``after + 1 … until``."""

    def distinct() -> Iterator[npt.NDArray[np.int64]]:
        held: list[npt.NDArray[np.int64]] = []
        for batch in log.scan(TEXT_KEYS, after=after, until=until):
            held += [batch[key].drop_nulls().to_numpy() for key in TEXT_KEYS]
            # Keys that repeat within a million count once; memory stays bounded.
            if sum(map(len, held)) > 1 << 20:
                yield np.unique(np.concatenate(held))
                held = []
        if held:
            yield np.unique(np.concatenate(held))

    return cut(histogram(distinct()), size)


def user_shards(log: EventLog, size: Size, *, after: int, until: int) -> tuple[Shard, ...]:
    """Shards of the events of ingests ``after + 1 … until`` by user, within every limit of ``size``."""
    events, users = (np.zeros(1 << BITS, np.int64) for _ in range(2))
    for batch in log.scan(["user_key"], after=after, until=until):
        keys = batch["user_key"].to_numpy()
        events += histogram([keys])
        # Rows lie sorted by user within an ingest, so this counts a user once or a few times.
        users += histogram([keys[np.flatnonzero(np.diff(keys, prepend=~keys[:1]))]])
    return cut(events, size.events, (users, size.users), (events * size.event_bytes + users * size.user_bytes, size.bytes))


def plan_refresh(
    home: Home,
    log: EventLog,
    size: Size,
    *,
    aggregator: str,
    encoder: str,
    states_since: int,
    texts_since: int,
    parent: int | None,
    first: int,
    last: int,
    rebuild: bool,
) -> Plan:
    """The stored plan of this refresh, made now unless a killed run left it.

    Args:
        size: of one shard.
        encoder: fingerprint of the text encoder.
        states_since, texts_since: marks of the tables that are written.
        parent: newest version of the line, if any.
        first, last: the ingests consumed are ``first + 1 … last``.
    """
    made = Plan(
        run=new_run(),
        kind="rebuild" if rebuild else "update",
        aggregator=aggregator,
        parent=parent,
        first_ingest=first,
        last_ingest=last,
        encoder=encoder,
        erasure=home.erasures.last(),
        states_since=states_since,
        texts_since=texts_since,
        shards=(),
        texts=(),
    )
    folder = made.folder
    if found := _stored(home, folder):
        return found
    shards = user_shards(log, size, after=first, until=last)
    texts = text_shards(log, after=first, until=last, size=size.events)
    made = made.model_copy(update={"shards": shards, "texts": texts})
    while True:
        if home.objects.create(f"{folder}/plan.json", made.model_dump_json().encode()):
            return made
        if found := _stored(home, folder):
            return found
        # A plan that cannot be read serves nobody: make it anew.
        home.objects.delete(folder)


def _stored(home: Home, folder: str) -> Plan | None:
    try:
        return Plan.model_validate_json(home.objects.get(f"{folder}/plan.json") or b"")
    except ValidationError:
        return None
