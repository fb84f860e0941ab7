"""Who pulled bundles from the home's shelf: what pullers leave in ``pulls/``, one small object each, if they may write there.

Whoever may leave a record may leave any: they are shown to people, and nothing is decided by them.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress

from schemas.errors import CorruptError, HomeError
from schemas.records import PullRecord
from store.action import Action
from store.home import Home
from store.pull import PULLS
from store.records import read_record

#: What ``store.pull`` calls them, by time; and bytes beyond which it is none of them.
_NAME = re.compile(rf"{PULLS}/\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}}\.json")
_MOST_BYTES = 1 << 16


def latest(home: Home, most: int) -> list[PullRecord]:
    """The newest records, at most ``most``, newest first; objects that are no such record are passed over."""
    found: list[PullRecord] = []
    for path in _ours(home.objects.files(PULLS)):
        if len(found) == most:
            break
        with suppress(CorruptError, HomeError):
            found.append(read_record(PullRecord, home.objects.get(path) or b"", f"{home.uri}/{path}"))
    return found


def old(home: Home) -> Iterable[Action]:
    """Records beyond the newest ``maintain.keep_pulls``, and whatever else lies there."""
    files, keep = home.objects.files(PULLS), home.config.maintain.keep_pulls
    gone = sorted(files.keys() - set(_ours(files)[:keep]))
    if gone:
        why, size = f"not among the newest {keep} records of who pulled a bundle", sum(files[path][0] for path in gone)
        yield Action(f"{len(gone):,} of {PULLS}", why, size, lambda: home.objects.remove(*gone))


def _ours(files: Mapping[str, tuple[int, object]]) -> list[str]:
    """Paths of what may be records, newest first."""
    return sorted((path for path, (size, _) in files.items() if _NAME.fullmatch(path) and size <= _MOST_BYTES), reverse=True)
