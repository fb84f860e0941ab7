"""Maintenance: sweep, retire and fold, compact, index.

``survey`` looks and lists actions; each says what, why and about how many bytes, and does nothing until it is called.
"""

from collections.abc import Iterable
from datetime import timedelta
from functools import partial

from schemas.errors import ConflictError
from store import pulls, upkeep
from store.action import Action, table_names
from store.home import Home
from store.lease import living
from store.reports import old_pages
from store.retention import folds, old_bundles, retirements
from store.sweep import STALE, dead_leases, dead_plans, drop_files, half_written, loose_files, unnamed_events, unnamed_states

#: Columns of each kind of table that reads look rows up by; an index each. ``states`` has none (store/states.py says why).
INDEXED = {"events": ("user_key", "event_key", "ingest"), "rejects": (), "embeddings": ("key",)}
#: Rows below which a scan is as fast as an index, and unindexed or deleted rows that are worth the work.
INDEX_ROWS, INDEX_SHARE = 50_000, 0.05
#: Fragments smaller than this are worth merging, when there are several.
FRAGMENT_ROWS, FRAGMENTS = 1 << 20, 8
#: Surveys of one run of maintenance: deleted rows lead to compaction, compaction to old files.
PASSES = 4


def survey(home: Home) -> list[Action]:
    """What ``maintain`` would do now, in order. Later actions make room by what earlier ones deleted."""
    retiring = retirements(home)
    return [
        *dead_leases(home),
        *dead_plans(home),
        *unnamed_events(home),
        *unnamed_states(home),
        *old_bundles(home),
        *pulls.old(home),
        *retiring.values(),
        *old_pages(home, set(retiring)),
        *folds(home, set(retiring)),
        *(action for name in table_names(home) for action in _table(home, name)),
        *half_written(home),
    ]


def maintain(home: Home) -> list[tuple[Action, str | None]]:
    """Do it, under the lease ``maintain``; each action with why it was put off, if it was.

    An action that another writer crossed is put off: the next run finds it again.
    """
    done: list[tuple[Action, str | None]] = []
    for _ in range(PASSES):
        # What one pass deletes, the next one compacts and cleans.
        found = [action for action in survey(home) if action.what not in {a.what for a, put_off in done if put_off}]
        for action in found:
            try:
                action.act()
            except ConflictError as error:
                done.append((action, error.what))
            else:
                done.append((action, None))
        if not found:
            break
    return done


def _table(home: Home, name: str) -> Iterable[Action]:
    dataset = home.tables.open(name)
    if dataset is None:
        return
    # Whoever works now may have begun at an old version of the table: what they append is refused once it is gone.
    busy = any(lease != "maintain" for lease in living(home))
    grace = STALE if busy else timedelta(minutes=home.config.maintain.grace_minutes)
    fragments = [(f.physical_rows, f.num_deletions) for f in dataset.get_fragments()]
    small, deleted = sum(rows < FRAGMENT_ROWS for rows, _ in fragments), sum(count for _, count in fragments)
    if small >= FRAGMENTS or deleted:
        why = f"{small} small files, {deleted:,} deleted rows still in files"
        yield Action(f"table {name}", why, 0, partial(upkeep.compact, home.tables, name))
    rows = dataset.count_rows()
    lacking = [c for c in INDEXED.get(name.split("-")[0], ()) if upkeep.unindexed(dataset, c) > max(INDEX_ROWS, INDEX_SHARE * rows)]
    if lacking:
        yield Action(
            f"indices of {name}", f"reads look rows up by {', '.join(lacking)}", 0, partial(upkeep.index, home.tables, name, lacking)
        )
    if unused := sorted(upkeep.indexed(dataset) - set(INDEXED.get(name.split("-")[0], ()))):
        why = f"no read uses those of {', '.join(unused)}"
        yield Action(f"indices of {name} that are left over", why, 0, partial(upkeep.unindex, home.tables, name, unused))
    old = upkeep.old_bytes(home.tables, name, grace)
    if old or small >= FRAGMENTS or deleted:
        why = f"replaced longer than {grace.total_seconds() / 60:g} minutes ago"
        yield Action(f"old versions of {name}", why, old, partial(upkeep.clean, home.tables, name, grace))
    if loose := loose_files(home, name):
        why = "no version of the table names them"
        yield Action(f"{len(loose):,} files of {name}", why, sum(loose.values()), partial(drop_files, home, name))
