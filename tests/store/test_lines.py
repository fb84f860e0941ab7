"""Production's line and the one that is to take its place."""

from collections.abc import Callable

import pytest

from schemas.config import EncoderConfig
from schemas.errors import ConfigError, ConflictError, NotFoundError
from schemas.records import VersionRecord
from store.home import Home
from store.lines import Lines
from store.versions import promote, rollback

OLD, NEW = "a1" * 32, "a2" * 32
FIRST, SECOND = EncoderConfig(max_tokens=32), EncoderConfig(model="another")


@pytest.fixture
def add(version_of: Callable[..., VersionRecord]) -> Callable[..., int]:
    return lambda home, aggregator, trained=True: version_of(home, aggregator=aggregator, trained=trained).number


def test_a_candidate_beside_production(place: str, new_home: Callable[..., Home], add: Callable[..., int]) -> None:
    home = new_home(place)
    lines = Lines(home)
    assert (lines.newest(), lines.live(), lines.all()) == (None, [None], [])
    lines.open(OLD, FIRST, reason="first")
    assert lines.live() == [OLD]
    promote(home, add(home, OLD), expected=None, reason="test")
    assert (lines.live(), lines.find("production")) == ([OLD], OLD)
    with pytest.raises(NotFoundError, match=r"no candidate(.|\n)*tapstate train"):
        lines.find("candidate")
    lines.open(NEW, SECOND, reason="new encoder")
    lines = Lines(Home(home.uri))
    assert (lines.live(), lines.find("candidate"), lines.find("production")) == ([OLD, NEW], NEW, OLD)
    assert (lines.encoder(OLD), lines.encoder(NEW), lines.encoder("b")) == (FIRST, SECOND, home.config.encoder)
    promote(home, add(home, NEW), expected=1, reason="better")
    assert lines.live() == [NEW], "the old line is retired"
    rollback(home, reason="worse after all")
    assert lines.live() == [OLD, NEW]
    lines.open(lines.find("production"), lines.encoder(OLD), reason="drop the candidate")
    assert (lines.live(), lines.all(), lines.encoder(OLD)) == ([OLD], [OLD, NEW], FIRST)


def test_an_untrained_line_is_no_rival(home: Home, add: Callable[..., int]) -> None:
    promote(home, add(home, OLD, False), expected=None, reason="test")
    Lines(home).open(NEW, FIRST, reason="trained")
    assert Lines(home).live() == [NEW]


def test_lines_by_the_beginning_of_their_hash(home: Home, add: Callable[..., int]) -> None:
    lines = Lines(home)
    for aggregator in (OLD, NEW):
        lines.open(aggregator, FIRST, reason="test")
    assert lines.find("a2") == NEW
    with pytest.raises(ConfigError, match="begins 2 lines"):
        lines.find("a")
    for name in ("", "b", "A2"):
        with pytest.raises(NotFoundError, match="tapstate lines"):
            lines.find(name)
    with pytest.raises(NotFoundError, match="tapstate refresh"):
        lines.find("production")


def test_two_lines_opened_at_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Lines(home)
    monkeypatch.setattr(home.lines, "last", lambda: 0)
    Lines(Home(home.uri)).open(OLD, FIRST, reason="first")
    with pytest.raises(ConflictError, match="meanwhile"):
        late.open(NEW, FIRST, reason="second")


def test_the_pointer_of_earlier_homes(home: Home) -> None:
    home.objects.put("current/aggregator", OLD.encode())
    assert (Lines(home).newest(), Lines(home).live(), Lines(home).all()) == (OLD, [OLD], [OLD])
    Lines(home).open(NEW, FIRST, reason="test")
    assert Lines(home).newest() == NEW
