"""Small objects behave alike on a local directory and on an S3-type store."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import HomeError
from store.objects import Objects

Spawn = Callable[..., subprocess.Popen[str]]
WRITER = """
import sys
from store.objects import Objects
objects = Objects(sys.argv[1])
won = [n for n in range(20) if objects.create(f"race/{n}.json", sys.argv[2].encode())]
print(len(won))
"""


def test_put_get_names_delete(place: str) -> None:
    objects = Objects(place)
    assert objects.get("a/b.json") is None
    assert objects.names("a") == []
    objects.put("a/b.json", b"one")
    objects.put("a/b.json", b"two")
    objects.put("a/c/d", b"")
    objects.put("ab/x", b"x")
    assert objects.get("a/b.json") == b"two"
    assert objects.get("a/c/d") == b""
    assert objects.names("a") == ["b.json", "c"]
    objects.delete("a")
    objects.delete("a")
    assert objects.get("a/b.json") is objects.get("a/c/d") is None
    assert objects.get("ab/x") == b"x"


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    """A kill between making a directory and its file, and one between writing a file and naming it."""
    objects = Objects(str(tmp_path))
    (tmp_path / "plans/empty").mkdir(parents=True)
    (tmp_path / "plans/half").mkdir()
    (tmp_path / "plans/half/plan.json#1").write_bytes(b"{")
    objects.delete("plans/empty")
    objects.delete("plans/half")
    assert objects.parts() == {"plans/half/plan.json#1": 1}
    objects.discard_part("plans/half/plan.json#1")
    assert objects.names("plans") == []
    objects.put("plans/half/plan.json", b"{}")
    assert objects.names("plans") == ["half"]


def test_create_keeps_what_is_there(place: str) -> None:
    objects = Objects(place)
    assert objects.create("n/1.json", b"first")
    assert not objects.create("n/1.json", b"second")
    assert objects.get("n/1.json") == b"first"


def test_one_of_many_threads_wins(place: str) -> None:
    objects = [Objects(place) for _ in range(8)]
    for number in range(5):
        start, won = threading.Barrier(len(objects)), []

        def write(who: int, path: str = f"n/{number}", start: threading.Barrier = start, won: list[int] = won) -> None:
            start.wait()
            if objects[who].create(path, str(who).encode()):
                won.append(who)

        threads = [threading.Thread(target=write, args=(who,)) for who in range(len(objects))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert objects[0].get(f"n/{number}") == str(won[0]).encode()


def test_one_of_many_processes_wins(tmp_path: Path, spawn: Spawn) -> None:
    writers = [spawn("-c", WRITER, str(tmp_path), str(who)) for who in range(4)]
    won = [int(writer.communicate()[0]) for writer in writers]
    assert sum(won) == 20
    assert all(Objects(str(tmp_path)).get(f"race/{n}.json") in (b"0", b"1", b"2", b"3") for n in range(20))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(HomeError, match="--home"):
        Objects(str(tmp_path / "file" / "home"))
    with pytest.raises(HomeError):
        Objects("nonsense://x")
    objects = Objects(str(tmp_path))
    with pytest.raises(HomeError, match="cannot write"):
        objects.put("file/below", b"x")
