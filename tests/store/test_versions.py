"""Versions by number, alias or default; an alias moves only from where its mover saw it."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from schemas.errors import ConflictError, NotFoundError
from schemas.records import VersionRecord
from store.home import Home, provenance
from store.versions import aliases, current, newest, promote, resolve


def add(home: Home, aggregator: str = "one") -> int:
    number = home.versions.last() + 1
    fields = dict.fromkeys(("users", "users_changed", "events", "events_new", "texts_encoded", "cache_hits", "last_ingest"), 0)
    more = {"parent": None, "runs": (1,), "as_of": datetime.now(UTC), "seconds": 0.0, "trained": False}
    record = VersionRecord.model_validate(
        {**provenance(), **fields, **more, "number": number, "aggregator": aggregator, "encoder": "e", "personalizer": "tide"}
    )
    assert home.versions.append(number, record)
    return number


def test_resolve(home: Home) -> None:
    with pytest.raises(NotFoundError, match="tapstate refresh"):
        resolve(home)
    for _ in range(3):
        add(home)
    assert resolve(home).number == 3
    promote(home, 2, expected=None, reason="test")
    promote(home, 1, alias="candidate", expected=None, reason="test")
    assert resolve(home).number == 2
    assert resolve(home, "candidate").number == 1
    assert resolve(home, "3").number == resolve(home, 3).number == 3
    assert aliases(home) == {2: ["production"], 1: ["candidate"]}


@pytest.mark.parametrize("reference", ["9", 9, "0", 0, -1, "-1", "nobody", "", "²", "../ingests", "a/b", "production"])
def test_what_is_not_there(home: Home, reference: str | int) -> None:
    add(home)
    with pytest.raises(NotFoundError, match="tapstate versions"):
        resolve(home, reference)


def test_newest_of_a_line(home: Home) -> None:
    assert newest(home, "one") is None
    for aggregator in ("one", "two", "one", "two", "two"):
        add(home, aggregator)
    assert newest(home, "one").number == 3  # type: ignore[union-attr]
    assert newest(home, "two").number == 5  # type: ignore[union-attr]
    assert newest(home, "three") is None


def test_promote_is_compare_and_set(home: Home) -> None:
    for _ in range(3):
        add(home)
    promote(home, 1, expected=None, reason="first")
    with pytest.raises(ConflictError, match="production names version 1, not None"):
        promote(home, 2, expected=None, reason="late")
    promote(home, 3, expected=1, reason="second")
    assert current(Home(home.uri), "production") == 3
    assert [r.reason for r in home.aliases("production").all()] == ["first", "second"]


def test_a_version_that_is_not_there_is_not_promoted(home: Home) -> None:
    add(home)
    with pytest.raises(NotFoundError):
        promote(home, 2, expected=None, reason="test")
    assert current(home, "production") is None


def test_one_of_racing_promoters_wins(place: str, new_home: Callable[..., Home]) -> None:
    home = new_home(place)
    for _ in range(7):
        add(home)
    promote(home, 7, expected=None, reason="start")
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def move(version: int) -> None:
        mine = Home(home.uri)
        start.wait()
        try:
            promote(mine, version, expected=7, reason=str(version))
            outcomes.append(str(version))
        except ConflictError:
            outcomes.append("lost")

    threads = [threading.Thread(target=move, args=(version,)) for version in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("lost") == 5
    assert [str(current(Home(home.uri), "production"))] == [o for o in outcomes if o != "lost"]
