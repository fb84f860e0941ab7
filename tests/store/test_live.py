"""CURRENT is followed while answers are given; what cannot be used is not swapped in."""

import json
import threading
import time
from pathlib import Path

import pytest
from small_bundles import AS_OF, USERS, answer, make_bundle, reseal

from schemas.errors import CompatibilityError, CorruptError, NotFoundError
from store.client import Bundle
from store.live import Live


def point(shelf: Path, name: str) -> None:
    (shelf / "CURRENT.new").write_text(name)
    (shelf / "CURRENT.new").rename(shelf / "CURRENT")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        make_bundle(tmp_path / f"v{version}", USERS, version=version, shift=100 * version)
    point(tmp_path, "v1")
    return tmp_path


def test_swaps_under_load(shelf: Path) -> None:
    """Every answer comes whole from the bundle that it names; an old bundle that is still held goes on answering."""
    wrong: list[object] = []
    count = [0] * 4
    seen: set[int] = set()
    done = threading.Event()

    def ask(number: int) -> None:
        while not done.is_set():
            try:
                bundle = live.bundle
                version = bundle.manifest["version"]
                found = bundle.static_prefix(USERS, now=AS_OF)
                if found.prefix.tolist() != [answer(user, 0, 100 * version) for user in USERS] or found.bundle_id != bundle.bundle_id:
                    wrong.append(found)
                seen.add(version)
                count[number] += 1
            except Exception as error:
                wrong.append(error)

    with Live(shelf, every=0.01) as live:
        held = live.bundle
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(30):
            name = f"v{turn % 3 + 1}"
            point(shelf, name)
            deadline = time.monotonic() + 60
            while live.bundle.path.name != name and time.monotonic() < deadline:
                time.sleep(0.005)
            before = list(count)
            while any(now <= then for now, then in zip(count, before, strict=True)) and not wrong and time.monotonic() < deadline:
                time.sleep(0.005)
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert seen == {1, 2, 3}
        assert live.error is None
        assert held.static_prefix(["u3"], now=AS_OF).prefix.tolist() == [answer("u3", 0, 100)]


def test_what_cannot_be_used_is_not_swapped_in(shelf: Path) -> None:
    (shelf / "v2/head.onnx").write_bytes(b"damaged")
    manifest = json.loads((shelf / "v3/manifest.json").read_text())
    reseal(shelf / "v3", llm={**manifest["llm"], "fingerprint": "0" * 64})
    with Live(shelf) as live:
        for name, error in (("v2", CorruptError), ("v3", CompatibilityError), ("v4", NotFoundError), ("../v1", CorruptError)):
            point(shelf, name)
            with pytest.raises(error):
                live.refresh()
            assert isinstance(live.error, error)
            assert live.bundle.path.name == "v1"
            assert live.bundle.static_prefix(["u3"], now=AS_OF).prefix.tolist() == [answer("u3", 0, 100)]
        point(shelf, "v1")
        assert not live.refresh()
        assert live.error is None


def test_a_bundle_that_lacks_a_task_is_not_swapped_in(tmp_path: Path) -> None:
    for version, tasks in enumerate([["a", "b"], ["b"], [], ["b", "a", "c"]], 1):
        make_bundle(tmp_path / f"v{version}", USERS, version=version, tasks=tasks)
    point(tmp_path, "v1")
    with Live(tmp_path) as live:
        for name in ("v2", "v3"):
            point(tmp_path, name)
            with pytest.raises(CompatibilityError, match="lacks task 'a'"):
                live.refresh()
            assert live.bundle.path.name == "v1"
        point(tmp_path, "v4")
        assert live.refresh()
        # Numbers of tasks are each bundle's own.
        assert live.bundle.static_prefix(["u3"], now=AS_OF, task="a").prefix.tolist() == [answer("u3", task=1)]


def test_the_first_bundle_with_tasks_is_not_swapped_in_under_requests_that_name_none(tmp_path: Path) -> None:
    for version, tasks in enumerate([[], ["a"]], 1):
        make_bundle(tmp_path / f"v{version}", USERS, version=version, tasks=tasks)
    point(tmp_path, "v1")
    with Live(tmp_path) as live:
        point(tmp_path, "v2")
        with pytest.raises(CompatibilityError, match="has tasks"):
            live.refresh()
        assert live.bundle.path.name == "v1"


def test_a_delta_stands_on_layers_that_are_open(shelf: Path) -> None:
    base = {**json.loads((shelf / "v1/manifest.json").read_text()), "name": "v1"}
    make_bundle(shelf / "v9", ["u3", "u77"], version=9, shift=5, base=base, gone=["u4"], erased=["u5", "u6"])
    with Live(shelf) as live:
        old = live.bundle
        point(shelf, "v9")
        assert live.refresh()
        assert live.bundle.layers[1] is old.layers[0]
        found = live.bundle.static_prefix(["u3", "u77", "u4", "u5", "u7", "nobody"], now=AS_OF)
        assert found.status == ["known", "known", "unknown", "erased", "known", "unknown"]
        assert found.prefix[[0, 1, 4]].tolist() == [answer("u3", 0, 5), answer("u77", 0, 5), answer("u7", 0, 100)]
        for user, status in zip(["u3", "u4", "u5", "nobody"], ["known", "unknown", "erased", "unknown"], strict=True):
            assert live.bundle.static_prefix([user], now=AS_OF).status == [status]
    live.bundle.verify()
    (shelf / "v1/manifest.json").write_text((shelf / "v2/manifest.json").read_text())
    with pytest.raises(CorruptError, match="not the one"):
        Bundle.open(shelf)
