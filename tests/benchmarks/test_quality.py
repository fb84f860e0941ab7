"""The benchmark's command: the same data give the same table, other data are judged anew, and nobody's rows are lost."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authors import articles

from benchmarks import quality
from benchmarks.frozen import STEPS
from benchmarks.variants import Budget

Rows = list[dict[str, Any]]
#: What a machine takes; the rest of a row does not depend on it.
TIMES = ("ms_per_query", "night_seconds")


@pytest.fixture
def judge(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rows]:
    """Runs arms on a few authors, against an LLM of two steps that counts as whole; gives the rows."""
    articles(tmp_path, tiny_encoder, lambda user, day: f"{user or 'nobody'} on day {day}")
    monkeypatch.setitem(STEPS, "label", 2)
    monkeypatch.setattr(Budget, "steps", 2)

    def run(*arms: str, cache: str = "cache", results: str = "results", code: int = 0, **options: Any) -> Rows:
        where = {"data": tmp_path, "cache": tmp_path / cache, "results": tmp_path / results}
        with pytest.raises(SystemExit) as left:
            quality.run(task=["news-category"], arm=list(arms), seed=[0], examples=16, steps=2, **where, **options)
        assert left.value.code == code
        rows: Rows = json.loads((tmp_path / results / "quality.json").read_text())
        return rows

    return run


def _timeless(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.mark.slow
def test_the_same_data_give_the_same_table(judge: Callable[..., Rows]) -> None:
    once, again = (judge("none", "tide", "tapper", cache=cache, results=cache) for cache in ("once", "again"))
    assert {row["arm"] for row in once} == {"none", "tide", "tapper"}
    assert {row["split"] for row in once} == {"known", "new"}
    assert _timeless(once) == _timeless(again)


@pytest.mark.slow
def test_what_was_judged_is_not_judged_again_unless_its_data_changed(
    judge: Callable[..., Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge("none", "last-label")
    assert '"arm": "last-label"' in capsys.readouterr().err
    before = judge("none", "last-label")
    assert '"arm"' not in capsys.readouterr().err
    path = tmp_path / "huffpost_news.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    # One user who is judged: the LLM's lessons, and so the LLM, are as they were.
    (llm,) = {row["llm"] for row in before}
    changed = [{**row, "category": "TRAVEL"} if row["user"] == "author10" else row for row in rows]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in changed).encode()))
    assert judge("none", "last-label", code=1) == before
    assert "other events" in capsys.readouterr().err
    after = judge("none", "last-label", replace_rows=True)
    assert '"arm": "last-label"' in capsys.readouterr().err
    assert {row["llm"] for row in after} == {llm}
    assert _timeless(after) != _timeless(before)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert _timeless(judge("none", "last-label", replace_rows=True)) == _timeless(before)
    assert '"arm"' not in capsys.readouterr().err


@pytest.mark.slow
def test_rows_against_another_llm_stand_until_they_are_let_go(
    judge: Callable[..., Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = judge("none")
    # A trial's LLM counts for nothing.
    assert judge("none", tuning_steps=1) == before
    path = tmp_path / "results" / "quality.json"
    others = [{**row, "llm": "e" * 64} for row in before]
    path.write_text(json.dumps(others))
    assert judge("none", code=1) == others
    assert "--replace" in capsys.readouterr().err
    assert {row["llm"] for row in judge("none", replace_rows=True)} == {before[0]["llm"]}
