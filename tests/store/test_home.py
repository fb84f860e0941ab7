"""Homes are made once, opened anywhere and never made by looking."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.config import Config
from schemas.errors import ConfigError, CorruptError, HomeError
from store.home import Home, new_run
from store.objects import Objects


def test_made_once(place: str) -> None:
    first, made = Home.create(place, Config(seed=7))
    again, made_again = Home.create(place, Config(seed=8))
    assert (made, made_again) == (True, False)
    assert again.record == first.record
    assert Home(place).config == Config(seed=7)


def test_a_killed_init_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration is written before the record that makes the place a home."""
    place, real = str(tmp_path / "place"), Objects.create
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "create", lambda self, path, data: real(self, path, data) if path != "home.json" else _interrupt())
        with pytest.raises(KeyboardInterrupt):
            Home.create(place, Config(seed=7))
    with pytest.raises(HomeError, match="init"):
        Home(place)
    home, made = Home.create(place, Config(seed=7))
    assert made
    assert home.config == Config(seed=7)


def _interrupt() -> bool:
    raise KeyboardInterrupt


def test_looking_makes_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "not" / "there"
    with pytest.raises(HomeError, match=f"tapstate --home {missing} init"):
        Home(str(missing))
    assert not missing.parent.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(HomeError, match="init"):
        Home(str(tmp_path / "empty"))


def test_another_format_is_refused(home: Home) -> None:
    path = Path(home.uri) / "home.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "format": 99, "code": "7.1"}))
    with pytest.raises(HomeError, match=r"format 99, written by tapstate 7\.1;(.|\n)*pip install \. in a checkout of tapstate 7\.1"):
        Home(home.uri)
    path.write_text("{}")
    with pytest.raises(CorruptError, match=r"home\.json"):
        Home(home.uri)


@pytest.mark.parametrize("damage", [b"[encoder", b"\xff\xfe", b"seed = 'x'"])
def test_a_bad_configuration_is_named(home: Home, damage: bytes) -> None:
    (Path(home.uri) / "config.toml").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        _ = Home(home.uri).config


@pytest.mark.parametrize("name", ["two words", "a#b", "100%25", "q?x", "naïve", "a[1]", "x'y"])
def test_any_directory_can_be_a_home(
    name: str, new_home: Callable[..., Home], put: Callable[..., object], night: Callable[..., object]
) -> None:
    home = new_home(name)
    put(home, [{"user_id": "u", "ts": 1_700_000_000, "text": "hello"}])
    assert night(home).users == 1  # type: ignore[attr-defined]
    assert night(Home(home.uri)) is None
    assert {p.name for p in Path(home.uri).parent.iterdir()} == {name, "rows.jsonl"}


def test_a_night_in_any_place(place: str, new_home: Callable[..., Home], put: Callable[..., object], night: Callable[..., object]) -> None:
    home = new_home(place)
    rows = [{"user_id": f"u{n}", "ts": 1_700_000_000, "text": f"hello {n}"} for n in range(3)]
    put(home, [*rows, {"user_id": "", "ts": 1, "text": "x"}])
    put(home, rows)
    assert night(home).users == 3  # type: ignore[attr-defined]
    assert night(Home(home.uri)) is None
    assert Home(home.uri).tables.open("events").count_rows() == 3  # type: ignore[union-attr]


def test_runs_do_not_repeat() -> None:
    runs = [new_run() for _ in range(1000)]
    assert len(set(runs)) == 1000
    assert all(0 <= run < 2**63 for run in runs)
