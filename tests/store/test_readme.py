"""The README's Python, as it stands but for the place and the moment."""

import ast
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import small_bundles

from schemas.records import VersionRecord
from store.home import Home
from store.versions import promote

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)


def run(block: str, place: str) -> tuple[list[Any], dict[str, Any]]:
    """The values of the block's expressions in their order, and its names."""
    assert "/data/tapstate" in block
    moment = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    names: dict[str, Any] = {}
    values = []
    for line in ast.parse(block.replace("/data/tapstate", place).replace("2026-11-20", moment)).body:
        if isinstance(line, ast.Expr):
            values.append(eval(compile(ast.Expression(line.value), "README.md", "eval"), names))
        else:
            exec(compile(ast.Module([line], []), "README.md", "exec"), names)
    return values, names


def test_there_are_two() -> None:
    assert len(BLOCKS) == 2


def test_reading_a_home(home: Home, wrote: Callable[..., VersionRecord]) -> None:
    """Twelve versions; a user's events are as many as the number of the run that wrote them last."""
    version = wrote(home, 99, {user: [1, 0, 0, number] for number, user in enumerate(("alice", "bob", "carol"))})
    for run_number in range(100, 111):
        version = wrote(home, run_number, {"alice": [1, 0, 0, run_number]}, version)
    promote(home, 12, expected=None, reason="test")
    (states, frame, near, found), _ = run(BLOCKS[0], home.uri)
    assert states["user_id"].to_pylist() == ["alice", "bob"]
    assert frame.rows() == [("alice", 110)]
    assert set(near["user_id"]) == {"bob", "carol"}
    assert isinstance(found, pl.DataFrame)
    assert found.rows() == [("alice",)]


def test_asking_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_bundles, "USERS", ["bob", "alice"])
    monkeypatch.setattr(small_bundles, "UNTIL", 2**40)
    small_bundles.make_bundle(tmp_path / "bundles" / "v1", ["alice", "bob"])
    (tmp_path / "bundles" / "CURRENT").write_text("v1")
    (prefix, status, static), names = run(BLOCKS[1], str(tmp_path))
    assert prefix.shape == (2, names["bundle"].length, names["bundle"].dim)
    assert status == ["known", "unknown"]
    assert static.prefix.tolist() == [small_bundles.answer("alice")]
