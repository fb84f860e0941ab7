"""Bundles are fetched whole or not at all, only where they are missing, from a directory as from an S3-type store."""

from pathlib import Path

import pytest
from small_bundles import AS_OF, USERS, make_bundle

from schemas.errors import CorruptError, InputError, NotFoundError
from store.client import Bundle
from store.objects import Objects
from store.pull import pull


@pytest.fixture
def shelf(tmp_path: Path, place: str) -> tuple[Path, str]:
    """A full bundle and a delta on it, there and at ``place``."""
    local = tmp_path / "local"
    base = make_bundle(local / "v1", USERS)
    make_bundle(local / "v2", ["u3"], version=2, shift=7, base=base, erased=["u5"])
    return local, place


def upload(local: Path, place: str, name: str) -> None:
    objects = Objects(place)
    for path in sorted((local / name).rglob("*")):
        if path.is_file():
            objects.put(f"{name}/{path.relative_to(local / name).as_posix()}", path.read_bytes())
    objects.put("CURRENT", f"{name}\n".encode())


def test_pull_full_then_delta(shelf: tuple[Path, str], tmp_path: Path) -> None:
    (local, place), target = shelf, tmp_path / "target"
    with pytest.raises(NotFoundError, match="CURRENT"):
        pull(place, target)
    upload(local, place, "v1")
    first = pull(place, target)
    assert (first.path, first.fetched) == (target / "v1", ("v1",))
    assert pull(place, target).fetched == ()
    upload(local, place, "v2")
    second = pull(place, target)
    assert second.fetched == ("v2",)
    assert second.bytes < first.bytes
    wanted, found = (Bundle.open(path).static_prefix([*USERS, "x"], now=AS_OF) for path in (local / "v2", target))
    assert found.status == wanted.status
    assert (found.prefix == wanted.prefix).all()
    assert sorted(p.name for p in target.iterdir()) == ["CURRENT", "v1", "v2"]
    Bundle.open(place if "://" in place else target, cache=tmp_path / "cache").verify()
    assert pull(place, tmp_path / "one", name="v1").path.name == "v1"


@pytest.mark.parametrize("damage", ["flip", "short", "missing", "manifest"])
def test_damage_on_the_way_leaves_nothing(shelf: tuple[Path, str], tmp_path: Path, damage: str) -> None:
    (local, place), target = shelf, tmp_path / "target"
    upload(local, place, "v1")
    pull(place, target)
    before = sorted(p.name for p in target.rglob("*"))
    path = local / "v2" / ("manifest.json" if damage == "manifest" else "index.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "short" else data)
    upload(local, place, "v2")
    with pytest.raises(CorruptError):
        pull(place, target)
    assert sorted(p.name for p in target.rglob("*")) == before
    assert Bundle.open(target).path.name == "v1"


def test_names_that_lead_elsewhere(tmp_path: Path) -> None:
    source = tmp_path / "source"
    base = make_bundle(source / "v1", USERS)
    for name in ("../v1", "/etc", ".hidden", ""):
        (source / "CURRENT").write_text(name)
        with pytest.raises((CorruptError, NotFoundError)):
            pull(str(source), tmp_path / "target")
    make_bundle(source / "v2", ["u1"], base={**base, "name": "../source/v1"})
    with pytest.raises(CorruptError):
        pull(str(source), tmp_path / "target", name="v2")
    with pytest.raises(InputError, match="pyarrow"):
        pull("nowhere://x/y", tmp_path / "target")
    assert not any((tmp_path / "target").iterdir())
