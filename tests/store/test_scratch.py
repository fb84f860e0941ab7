"""Rows of users on this machine's disk do not outlive the process that put them there, at the latest until the next one looks."""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from store.scratch import scratch, sweep

Spawn = Callable[..., subprocess.Popen[str]]
HOLDER = """
import sys, time
from store.scratch import scratch
with scratch() as directory:
    (directory / "rows").write_text("of users")
    print(directory, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_nothing_is_left_by_whoever_ends(tmp_path: Path) -> None:
    def fails() -> None:
        with scratch() as directory:
            (directory / "rows").write_text("of users")
            assert directory.parent == tmp_path
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holders_goes_and_a_living_ones_stays(tmp_path: Path, spawn: Spawn) -> None:
    holder = spawn("-c", HOLDER)
    assert holder.stdout
    theirs = Path(holder.stdout.readline().strip())
    with scratch() as mine:
        sweep()
        assert theirs.joinpath("rows").is_file()
        holder.kill()
        holder.wait()
        sweep()
        assert not theirs.exists()
        assert mine.is_dir()
    assert list(tmp_path.iterdir()) == []
