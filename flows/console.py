"""What people see: tables and JSON on standard output, progress and everything else on standard error."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

#: Columns of a table that goes into a pipe or a file, where nothing has to fit.
PIPED = 10_000
stdout, stderr = Console(), Console(stderr=True)
if not stdout.is_terminal and "COLUMNS" not in os.environ:
    stdout.width = PIPED
#: What a command's exit code says.
EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "wrong usage or configuration",
    3: "done but part of the input was damaged",
    4: "another writer was first",
    5: "a check failed",
}
#: Letters of a word that is not folded, and of a column of longer ones at least.
SHORT, FOLDED = 16, 8
_HASH = re.compile(r"[0-9a-f]{64}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?")


class Output(StrEnum):
    """How a command prints its result."""

    table = "table"
    json = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Print a table, or JSON alone on standard output.")]


def emit(data: Any, output: Output, *, title: str = "") -> None:
    """Print a result: an object as one row a key, a list of objects as one row each, or one after the other where a row would not fit."""
    if output is Output.json:
        print(json.dumps(data, default=str))
        return
    if title:
        stdout.print(title)
    if isinstance(data, Mapping):
        stdout.print(_object(data))
    elif not data:
        note("no rows")
    elif (table := _rows(data)) is not None:
        stdout.print(table)
    else:
        for row in data:
            stdout.print(_object(row))


def _table(*, header: bool) -> Table:
    return Table(show_header=header, box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)


def _object(data: Mapping[str, Any]) -> Table:
    table = _table(header=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    for key, value in data.items():
        table.add_row(str(key), _cell(value))
    return table


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """None if the columns do not fit beside each other: they would be left out without a word."""
    table, narrowest = _table(header=True), 0
    cells = [[_cell(value) for value in row.values()] for row in rows]
    for place, key in enumerate(rows[0]):
        # Short words stay whole; what is long is folded, not cut.
        column = [str(key), *(row[place] for row in cells)]
        longest = max(len(word) for cell in column for word in cell.split() or [""])
        least = longest if longest <= SHORT else FOLDED
        numeric = all(isinstance(row[key], int | float | None) for row in rows) and any(row[key] is not None for row in rows)
        table.add_column(
            str(key),
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=least,
            no_wrap=longest <= SHORT and not any(" " in cell or "\n" in cell for cell in column),
        )
        narrowest += least + 2
    for row in cells:
        table.add_row(*row)
    return table if narrowest <= stdout.width else None


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else ("yes" if value else "no")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    text = str(value)
    # A hash's beginning tells it apart, and a minute is near enough, where a row has to fit a terminal; JSON has both in full.
    if _HASH.fullmatch(text):
        return text[:8]
    return f"{text[:10]} {text[11:16]}" if _MOMENT.fullmatch(text) else escape(text)


class _Rate(ProgressColumn):
    """Units per second, and the task's own figures."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "")
        figures = " ".join(f"{k} {v:.3g}" for k, v in task.fields.get("figures", {}).items())
        rate = f"{speed:,.0f} {unit}/s" if speed and speed >= 10 else (f"{speed:,.1f} {unit}/s" if speed else unit)
        return Text(f"{int(task.completed):,} {rate} {figures}")


class Bars:
    """A meter that shows rich progress bars on standard error; nothing where that is not a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:>10}"), BarColumn(), _Rate(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=stderr, disable=not sys.stderr.isatty())
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, name: str, total: int | None, unit: str) -> None:
        """A new bar; the same name again adds to its total."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, unit=unit, figures={})
        elif total is not None:
            old = self._progress.tasks[self._tasks[name]].total or 0
            self._progress.update(self._tasks[name], total=old + total)

    def advance(self, name: str, count: int, **figures: Any) -> None:
        if figures:
            self._progress.update(self._tasks[name], figures=figures)
        self._progress.advance(self._tasks[name], count)

    def finish(self, name: str) -> None:
        task = self._progress.tasks[self._tasks[name]]
        self._progress.update(self._tasks[name], total=task.completed)


def note(text: str) -> None:
    """A line for people, on standard error."""
    stderr.print(text, highlight=False, markup=False, soft_wrap=True)
