"""Homes that earlier releases wrote (tests/homes) open, read, refresh and bundle with this one."""

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.encoder import KnownEncoder
from pipelines.publish import publish
from schemas.errors import CompatibilityError, CorruptError
from schemas.records import VersionRecord
from store import open_store
from store.client import Bundle
from store.home import Home
from store.lines import Lines
from store.versions import current, promote, rollback

HOMES = sorted((Path(__file__).parents[1] / "homes").glob("home-*.tar.xz"))


@pytest.fixture(params=HOMES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """14 users, ten days of events, a trained line of two versions; production names the second, which has a bundle."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    config = tmp_path / "home" / "config.toml"
    config.write_text(re.sub(r'(\[encoder\].*\nmodel = )"[^"]*"', rf'\1"{tmp_path / "encoder"}"', config.read_text()))
    return Home(str(tmp_path / "home"))


def test_it_is_small() -> None:
    assert HOMES
    assert all(path.stat().st_size <= 200_000 for path in HOMES)


def test_read(old: Home) -> None:
    store = open_store(old.uri)
    version = store.version()
    assert (version.number, len(version), version.record.events, version.record.parent) == (2, 14, 140, 1)
    user = "user 3"
    assert version.states([user], ["event_count"]).to_pylist() == [{"event_count": 10}]
    assert len(store.events([user])) == 10
    assert store.version(1).states([user], ["event_count"]).to_pylist() == [{"event_count": 9}]
    assert store.version(1).compare(version).moved == 14
    assert store.version(version.record.created_at).number in (1, 2)
    with pytest.raises(CorruptError, match="tapstate bundle"):
        Bundle.open(f"{old.uri}/bundles")
    uri, _ = publish(old, version.record, KnownEncoder(old, Lines(old).encoder(version.record.aggregator)))
    answer = Bundle.open(uri).prefix([user, "nobody"], ["item 1", "item 1"])
    assert answer.status == ["known", "unknown"]
    assert np.isfinite(answer.prefix).all()


def test_refresh_and_go_on(old: Home, put: Callable[..., object], night: Callable[..., VersionRecord]) -> None:
    put(
        old,
        [{"user_id": "user 3", "ts": "2023-12-01", "text": "item 7", "target": "b"}, {"user_id": "new", "ts": "2023-12-01", "text": "x"}],
    )
    version = night(old)
    assert (version.number, version.parent, version.users, version.users_changed, version.trained) == (3, 2, 15, 2, True)
    assert {check.name for check in version.checks} >= {"coverage", "zero_states", "prefix_ratio"}
    assert all(check.passed for check in version.checks)
    rebuilt = night(old, full=True)
    spec = open_store(old.uri).version(3).spec
    tables = [open_store(old.uri).version(n).to_arrow() for n in (3, rebuilt.number)]
    np.testing.assert_allclose(spec.vectors(tables[0]), spec.vectors(tables[1]), atol=1e-5)
    promote(old, 3, expected=2, reason="test")
    assert rollback(old, reason="test").version == current(old, "production") == 2
    encoder = KnownEncoder(old, Lines(old).encoder(version.aggregator))
    uri, manifest = publish(old, version, encoder)
    assert (Bundle.open(uri).manifest["version"], manifest["users"]) == (3, 15)
    with pytest.raises(CompatibilityError) as caught:
        publish(old, version.model_copy(update={"encoder": "f" * 64}), encoder)
    assert "ffffffffffff" in str(caught.value)
    assert encoder.fingerprint[:12] in str(caught.value)
