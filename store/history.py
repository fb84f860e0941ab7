"""History: one user's state across versions, from one look-up a line."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow.compute as pc

from schemas.keys import user_key
from schemas.records import VersionRecord
from store.comparison import View
from store.home import Home
from store.measures import cosine_shift
from store.versions import kept


@dataclass(frozen=True)
class Entry:
    """A user at one version.

    Attributes:
        present: whether the version holds the user.
        changed: whether the state differs from the one at the line's version before (its first version: whether it is there).
        events, first_ts, last_ts: what is behind the state.
        shift: ``1 − cos`` from the line's version before; None where one of the two has no state.
        norm: root mean square of the state's vector.
    """

    version: int
    created_at: datetime
    aggregator: str
    present: bool
    changed: bool
    events: int
    first_ts: datetime | None
    last_ts: datetime | None
    shift: float | None
    norm: float | None


def user_history(home: Home, user_id: str) -> list[Entry]:
    """An entry for every version, oldest first, with or without the user."""
    versions = kept(home)
    lines: dict[str, list[VersionRecord]] = {}
    for version in versions:
        lines.setdefault(version.aggregator, []).append(version)
    entries = [entry for line in lines.values() for entry in _of_line(home, line, user_id)]
    return sorted(entries, key=lambda entry: entry.version)


def _of_line(home: Home, versions: list[VersionRecord], user_id: str) -> list[Entry]:
    view = View.of(home, versions[0])
    rows = view.states.rows(np.array([user_key(user_id)], np.int64)).filter(pc.field("user_id") == user_id)
    vectors = view.spec.vectors(rows)
    about = rows.select(["run", "event_count", "first_ts", "last_ts"]).to_pylist()
    row_of = {row["run"]: index for index, row in enumerate(about)}
    entries = []
    before: int | None = None
    for version in versions:
        now = next((row_of[run] for run in reversed(version.runs) if run in row_of), None)
        if now is not None and not about[now]["event_count"]:
            now = None
        shift = None
        if now is not None and before is not None:
            shift = float(cosine_shift(vectors[[before]], vectors[[now]])[0])
        same = now == before or (
            now is not None
            and before is not None
            and bool((vectors[now] == vectors[before]).all())
            and {**about[now], "run": 0} == {**about[before], "run": 0}
        )
        row = about[now] if now is not None else None
        entries.append(
            Entry(
                version=version.number,
                created_at=version.created_at,
                aggregator=version.aggregator,
                present=row is not None,
                changed=not same,
                events=row["event_count"] if row else 0,
                first_ts=row["first_ts"] if row else None,
                last_ts=row["last_ts"] if row else None,
                shift=shift,
                norm=float(np.sqrt(np.mean(np.square(vectors[now], dtype=np.float64)))) if now is not None else None,
            )
        )
        before = now
    return entries
