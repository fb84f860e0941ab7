"""Plans: how a refresh is cut into shards, decided and stored before the work starts.

Keys are hashes, so ranges of keys hold events evenly; a histogram of the key's highest bits, counted in one streamed pass, makes
shards of about equal size whatever the number of users.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from schemas.records import Plan, Shard
from store.events import EventLog
from store.home import Home, new_run

#: Highest bits of a key that the histogram tells apart.
BITS = 16


def histogram(parts: Iterable[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Counts by the highest ``BITS`` of signed keys, ascending."""
    counts = np.zeros(1 << BITS, np.int64)
    for keys in parts:
        counts += np.bincount((keys >> (64 - BITS)) + (1 << (BITS - 1)), minlength=1 << BITS)
    return counts


def cut(counts: npt.NDArray[np.int64], size: int) -> tuple[Shard, ...]:
    """Ranges of keys that hold about ``size`` events each; ranges without events are left out."""
    shards: list[Shard] = []
    start, held = 0, 0
    width = 1 << (64 - BITS)
    for bucket in [*np.flatnonzero(counts).tolist(), len(counts)]:
        count = int(counts[bucket]) if bucket < len(counts) else size + 1
        if held and held + count > size:
            low, high = (start - len(counts) // 2) * width, (bucket - len(counts) // 2) * width - 1
            shards.append(Shard(index=len(shards), low=low, high=high, events=held))
            start, held = bucket, 0
        held += count
    return tuple(shards)


def shards_by(log: EventLog, keys: Sequence[str], *, after: int, until: int, size: int) -> tuple[Shard, ...]:
    """Shards of the events of ingests ``after + 1 … until`` by the given key columns together."""
    batches = log.scan(keys, after=after, until=until)
    return cut(histogram(batch[key].drop_nulls().to_numpy() for batch in batches for key in keys), size)


def plan_refresh(
    home: Home, log: EventLog, *, aggregator: str, parent: int | None, first: int, last: int, rebuild: bool
) -> tuple[str, Plan]:
    """The stored plan of this refresh, made now unless a killed run left it; and its folder.

    Args:
        parent: newest version of the line, if any.
        first, last: the ingests consumed are ``first + 1 … last``.
    """
    # Rows staged before an erasure may be of the erased: a plan is of one state of the denylist, and never taken up under another.
    erasure = home.erasures.last()
    kind = "rebuild" if rebuild else "update"
    folder = f"plans/{aggregator[:16]}-{parent or 0}-{first}-{last}-{kind}-{erasure}"
    shards = shards_by(log, ["user_key"], after=first, until=last, size=home.config.refresh.shard_events)
    made = Plan(
        run=new_run(),
        kind="rebuild" if rebuild else "update",
        aggregator=aggregator,
        parent=parent,
        first_ingest=first,
        last_ingest=last,
        shards=shards,
        erasure=erasure,
    )
    while True:
        if home.objects.create(f"{folder}/plan.json", made.model_dump_json().encode()):
            return folder, made
        data = home.objects.get(f"{folder}/plan.json")
        try:
            return folder, Plan.model_validate_json(data or b"")
        except ValidationError:
            # A plan that cannot be read serves nobody: make it anew.
            home.objects.delete(folder)
