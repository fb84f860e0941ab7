"""Who pulled: a record where the puller may leave one, nothing that could fail a pull where not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_bundles import USERS, make_bundle

from schemas.errors import ConfigError
from schemas.records import IngestRecord
from store.client import Bundle
from store.home import Home
from store.live import Live
from store.maintenance import maintain
from store.objects import Objects
from store.provenance import who
from store.pull import PULLS, pull
from store.pulls import latest


@pytest.fixture
def stocked(new_home: Callable[..., Home], place: str, tmp_path: Path) -> Home:
    """A home, here and on an S3-type store, with a bundle on its shelf."""
    return stock(new_home(place), tmp_path)


def stock(home: Home, tmp_path: Path, version: int = 1) -> Home:
    make_bundle(tmp_path / "made" / f"v{version}", USERS, version=version)
    for path in sorted((tmp_path / "made" / f"v{version}").rglob("*")):
        if path.is_file():
            home.objects.put(f"bundles/{path.relative_to(tmp_path / 'made').as_posix()}", path.read_bytes())
    home.objects.put("bundles/CURRENT", f"v{version}".encode())
    return home


def test_who_pulled_what(stocked: Home, tmp_path: Path) -> None:
    shelf = f"{stocked.uri}/bundles"
    assert latest(stocked, 9) == []
    first = pull(shelf, tmp_path / "a")
    assert (first.fetched, first.unrecorded) == (("v1",), "")
    (told,) = latest(stocked, 9)
    found = Bundle.open(tmp_path / "a")
    assert (told.created_by, told.bundle, told.bundle_id, told.version) == (who(), "v1", found.bundle_id, 1)
    assert (told.fetched, told.bytes) == (("v1",), first.bytes)
    # Nothing was fetched: a server that looks every ten seconds leaves no trail.
    again = pull(shelf, tmp_path / "a")
    assert (again.fetched, again.unrecorded, len(latest(stocked, 9))) == ((), "", 1)
    pull(shelf, tmp_path / "b", by="the shop's servers")
    assert {record.created_by for record in latest(stocked, 9)} == {who(), who("the shop's servers")}
    assert len(latest(stocked, 1)) == 1
    with pytest.raises(ConfigError, match="no name"):
        pull(shelf, tmp_path / "c", by="a\x1b[2J")
    assert not (tmp_path / "c").exists()


@pytest.mark.s3
def test_a_server_says_who_it_is(s3: str, new_home: Callable[..., Home], tmp_path: Path) -> None:
    home = stock(new_home(f"{s3}/{tmp_path.name}"), tmp_path)
    with Live(f"{home.uri}/bundles", cache=tmp_path / "cache", by="server") as live:
        stock(home, tmp_path, version=2)
        assert live.refresh()
        assert not live.refresh()
    assert sorted((record.created_by, record.bundle) for record in latest(home, 9)) == [(who("server"), "v1"), (who("server"), "v2")]


def test_a_place_that_is_no_home_gets_nothing(place: str, tmp_path: Path) -> None:
    make_bundle(tmp_path / "made" / "v1", USERS)
    objects = Objects(place)
    for path in (p for p in (tmp_path / "made").rglob("*") if p.is_file()):
        objects.put(f"bundles/{path.relative_to(tmp_path / 'made').as_posix()}", path.read_bytes())
    objects.put("bundles/CURRENT", b"v1")
    assert "no home" in pull(f"{place}/bundles", tmp_path / "a").unrecorded
    assert objects.names("") == ["bundles"]


def test_a_place_that_cannot_be_written(home: Home, tmp_path: Path) -> None:
    stock(home, tmp_path)
    home.objects.put(PULLS, b"a file where the records would go")
    pulled = pull(f"{home.uri}/bundles", tmp_path / "a")
    assert "cannot write" in pulled.unrecorded
    Bundle.open(pulled.path).verify()
    assert latest(home, 9) == []


def test_only_records_are_shown_and_few_are_kept(stocked: Home, tmp_path: Path) -> None:
    pull(f"{stocked.uri}/bundles", tmp_path / "a")
    (path,) = stocked.objects.files(PULLS)
    record = json.loads(stocked.objects.get(path) or b"")
    for number in range(4):
        stocked.objects.put(f"{PULLS}/2000010{number + 1}T000000Z-0000000{number}.json", json.dumps({**record, "version": number}).encode())
    bad = [b"{", b"x" * 70_000, json.dumps({**record, "created_by": "a\x1b[2J"}).encode(), json.dumps({**record, "more": 1}).encode()]
    for number, data in enumerate(bad):
        stocked.objects.put(f"{PULLS}/2999010{number + 1}T000000Z-00000000.json", data)
    stocked.objects.put(f"{PULLS}/zzz", b"")
    assert [found.version for found in latest(stocked, 99)] == [1, 3, 2, 1, 0]
    kept = stocked.config.model_copy(update={"maintain": stocked.config.maintain.model_copy(update={"keep_pulls": 6})})
    stocked.__dict__["config"] = kept
    assert f"4 of {PULLS}" in {action.what for action, put_off in maintain(stocked) if put_off is None}
    assert [found.version for found in latest(stocked, 99)] == [1, 3, 2]
    assert len(stocked.objects.files(PULLS)) == 6
    assert not maintain(stocked)


def test_a_puller_may_be_called_like_an_erased_user(home: Home, put: Callable[..., IngestRecord], night: object, tmp_path: Path) -> None:
    from pipelines.erase import Erasure

    put(home, [{"user_id": user, "event_id": user, "ts": 1_700_000_000, "text": "t"} for user in ("shopkeeper", "other")])
    stock(home, tmp_path)
    pull(f"{home.uri}/bundles", tmp_path / "a", by="shopkeeper")
    receipt = Erasure(home, ["shopkeeper"]).erase("asked")
    assert (receipt.proof.hits, receipt.proof.mentions >= 1) == ((), True)
    assert [record.created_by for record in latest(home, 9)] == [who("shopkeeper")]
