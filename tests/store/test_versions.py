"""Versions by number, alias or default; an alias moves only from where its mover saw it."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from schemas.errors import ConfigError, ConflictError, NotFoundError
from schemas.records import AliasRecord, VersionRecord
from store.home import Home, provenance
from store.versions import aliases, current, held, moves, newest, promote, resolve, rollback


def add(home: Home, aggregator: str = "one", when: datetime | None = None) -> int:
    number = home.versions.last() + 1
    fields = dict.fromkeys(("users", "users_changed", "events", "events_new", "texts_encoded", "cache_hits", "last_ingest"), 0)
    more = {"parent": None, "runs": (1,), "as_of": datetime.now(UTC), "seconds": 0.0, "trained": False}
    record = VersionRecord.model_validate(
        {
            **provenance(),
            **({"created_at": when} if when else {}),
            **fields,
            **more,
            "number": number,
            "aggregator": aggregator,
            "encoder": "e",
            "personalizer": "tide",
        }
    )
    assert home.versions.append(number, record)
    return number


def move(home: Home, alias: str, number: int, version: int, when: datetime) -> None:
    fields = {"number": number, "name": alias, "version": version, "expected": None, "reason": "test", "created_at": when}
    assert home.aliases(alias).append(number, AliasRecord.model_validate({**provenance(), **fields}))


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


def test_rollback_goes_back_through_the_promotions(place: str, new_home: Callable[..., Home]) -> None:
    home = new_home(place)
    for _ in range(4):
        add(home)
    with pytest.raises(NotFoundError, match="no alias"):
        rollback(home, reason="test")
    promote(home, 1, expected=None, reason="test")
    with pytest.raises(NotFoundError, match="no version before 1"):
        rollback(home, reason="test")
    promote(home, 2, expected=1, reason="test")
    promote(home, 4, expected=2, reason="test")
    assert held(home) is None
    first = rollback(home, reason="bad night")
    assert (first.version, first.expected, first.reason, first.rollback) == (2, 4, "bad night", True)
    assert held(Home(home.uri)) == first
    assert rollback(home, reason="worse").version == 1
    promote(home, 3, expected=1, reason="mended")
    assert held(home) is None
    assert rollback(home, reason="again").version == 1
    assert [(m.name, m.version) for m in moves(home)] == [("production", n) for n in (1, 2, 4, 2, 1, 3, 1)]
    assert aliases(home) == {1: ["production"]}


@pytest.mark.parametrize("alias", ["", "12", "2026-11-20", "Production", "a/b", "../x", "a@b", "a b", "x" * 65, "-a"])
def test_what_cannot_be_an_alias(home: Home, alias: str) -> None:
    add(home)
    with pytest.raises(ConfigError, match="cannot be an alias"):
        promote(home, 1, alias=alias, expected=None, reason="test")
    assert home.objects.names("aliases") == []


def test_a_moment_means_what_production_named_then(home: Home) -> None:
    start = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)
    for day in range(4):
        add(home, when=start + timedelta(days=day))
    for number, (version, hours) in enumerate([(1, 10), (3, 50), (2, 55)], 1):
        move(home, "production", number, version, start + timedelta(hours=hours))
    move(home, "candidate", 1, 4, start + timedelta(days=3, hours=1))

    def at(text: str) -> int:
        return resolve(home, text).number

    assert at((start + timedelta(hours=10)).isoformat()) == 1
    assert at((start + timedelta(hours=50)).isoformat().replace("+00:00", "")) == 3, "UTC unless it says otherwise"
    assert at("2026-11-22T05:30:00+02:00") == 3, "03:30 UTC"
    assert at("2026-11-22T08:31Z") == 2, "after the third move"
    assert at("2026-11-22") == 1, "a date is its first instant"
    assert at("2030-01-01") == 2
    assert at("2026-11-20T02:00") == 1, "before production's first move, the newest version made until then"
    assert at("candidate@2026-11-24") == 4
    missing = {
        "2026-11-19": "production named no version at",
        "candidate@2026-11-20": "candidate named no version at",
        "nobody@2026-11-24": "no version, alias or moment",
        "2026-13-01": "no version, alias or moment",
    }
    for reference, said in missing.items():
        with pytest.raises(NotFoundError, match=said):
            resolve(home, reference)
