"""Tables: nothing that was asked for is left out, however narrow the terminal."""

from datetime import UTC, datetime

import pytest

from flows import console
from flows.console import Output, emit

ROWS = [
    {"user_id": "someone-or-other", "at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "events": None, "text": "word " * 30, "target": "LAST"},
    {"user_id": "b", "at": datetime(2026, 1, 2, 3, 5, tzinfo=UTC), "events": 1_234, "text": "short", "target": "OTHER"},
]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_every_cell_is_there_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console.stdout, "width", width)
    emit(ROWS, Output.table)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert all(out.count(word) for word in ("someone-or-other", "1,234", "LAST", "OTHER", "2026-01-02", "03:04"))
    assert out.count("word") == 30
    # One block a row where the columns do not fit beside each other.
    assert out.count("user_id") == (2 if width == 40 else 1)


def test_no_rows_are_said_aside(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], Output.table)
    assert capsys.readouterr() == ("", "no rows\n")
    emit([], Output.json)
    assert capsys.readouterr() == ("[]\n", "")
