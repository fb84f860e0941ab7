"""LaMP's published files as downloaded: the profile of every question, item by item, as events."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.sources import BadRow, RawBatch, unreadable
from pipelines.sources.files import DamagedError, File
from schemas.errors import ConfigError, InputError

Item = dict[str, Any]
#: What an item says, and its label, by task: LaMP-1 and -7 have no label.
_TASKS: dict[str, tuple[Callable[[Item], Any], Callable[[Item], Any]]] = {
    "1": (lambda i: _join(i.get("title"), i.get("abstract")), lambda i: None),
    "2": (lambda i: i.get("description", i.get("text")), lambda i: i.get("tag", i.get("category"))),
    "3": (lambda i: i.get("text"), lambda i: i.get("score")),
    "4": (lambda i: i.get("text"), lambda i: i.get("title")),
    "5": (lambda i: i.get("abstract"), lambda i: i.get("title")),
    "6": (lambda i: i.get("text"), lambda i: i.get("title")),
    "7": (lambda i: i.get("text"), lambda i: None),
}
_FIELDS = {name: pl.String() for name in ("user_id", "event_id", "ts", "text", "target", "value")} | {"line": pl.Int64()}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_BATCH = 20_000
#: No question is larger; a longer one is not JSON, or not LaMP.
_MAX_QUESTION = 256 << 20
_SPACE, _GAP = re.compile(r"\s*"), re.compile(r"[\s,]*")


class LampSource:
    """Profile items of ``{train,dev,test}_questions.json`` as events.

    ``user_id`` is the question's ``user_id`` where it has one, else its ``id``; ``event_id`` the item's ``id``; ``text``
    and ``target`` by task: LaMP-1 title and abstract, no target; LaMP-2 (N and M) description or text → category or tag;
    LaMP-3 text → score (also the ``value``); LaMP-4 and -6 text → title; LaMP-5 abstract → title; LaMP-7 text, no target.
    ``ts`` is the item's ``date``. Without dates only the order is known, so the n-th item of a profile gets the n-th day
    from 2000-01-01: use such times as an order, nothing more. ``line`` is the question's place in its file.

    Args:
        directory: holds the files, or a folder ``LaMP_<task>`` that does.
        task: ``"1"``, ``"2"``, ``"2N"``, ``"2M"``, ``"3"`` … ``"7"``, or as ``"LaMP_3"``, ``"LaMP-3"``.

    Raises:
        ConfigError: an unknown task.
    """

    def __init__(self, directory: str | Path, task: str | int) -> None:
        self.directory = Path(directory)
        self.task = str(task).upper().removeprefix("LAMP").lstrip("_-")
        if self.task.rstrip("NM") not in _TASKS:
            raise ConfigError(f"no LaMP task {task!r}", where="--task", mend="use one of 1, 2N, 2M, 3, 4, 5, 6, 7")

    @property
    def name(self) -> str:
        """The directory and the task."""
        return f"{self.directory} LaMP-{self.task}"

    def batches(self) -> Iterator[RawBatch]:
        """Raises InputError when there is no file of questions, or one is no JSON array."""
        folders = [self.directory / f"LaMP_{self.task}", self.directory]
        for folder in folders:
            paths = [folder / f"{split}_questions.json" for split in ("train", "dev", "test")]
            if found := [path for path in paths if path.is_file()]:
                return self._read(found)
        raise InputError(
            "none of train_questions.json, dev_questions.json, test_questions.json is there",
            where=" or ".join(map(str, folders)), mend="download the task from lamp-benchmark.github.io",
        )  # fmt: skip

    def _read(self, paths: list[Path]) -> Iterator[RawBatch]:
        for path in paths:
            rows: list[tuple[object, ...]] = []
            bad: list[BadRow] = []
            try:
                for line, question in enumerate(_elements(File(str(path), "json", False, str(path))), 1):
                    self._events(line, question, rows, bad)
                    if len(rows) + len(bad) >= _BATCH:
                        yield _batch(path, rows, bad)
                        rows, bad = [], []
            except DamagedError as error:
                yield _batch(path, rows, bad, str(error))
            else:
                yield _batch(path, rows, bad)

    def _events(self, line: int, question: Any, rows: list[tuple[object, ...]], bad: list[BadRow]) -> None:
        profile = question.get("profile") if isinstance(question, dict) else None
        if not isinstance(profile, list) or not all(isinstance(item, dict) for item in profile):
            bad.append((line, json.dumps(question).encode(), "no question with a profile"))
            return
        user = _string(question.get("user_id", question.get("id")))
        text, target = _TASKS[self.task.rstrip("NM")]
        for order, item in enumerate(profile):
            label = _string(target(item))
            score = label if self.task == "3" else None
            rows.append((user, _string(item.get("id")), _time(item, order), _string(text(item)), label, score, line))


def _elements(file: File) -> Iterator[Any]:
    """Elements of a JSON array, one after the other: the file is never in memory at once.

    Raises:
        InputError: the file is no JSON array.
        DamagedError: it breaks in the middle.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    decoder, text, begun = json.JSONDecoder(), "", False
    for data in chain(file.chunks(), [b""]):
        try:
            text += decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise DamagedError(f"not valid UTF-8: {error.reason}") from error
        at = 0 if begun else _after(_SPACE, text, 0)
        if not begun and text[at:]:
            if text[at] != "[":
                break
            begun, at = True, at + 1
        while begun:
            at = _after(_GAP, text, at)
            if text[at : at + 1] == "]":
                return
            try:
                element, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                if not data or len(text) - at > _MAX_QUESTION:
                    raise DamagedError(f"the JSON breaks in the middle: {error}") from error
                break
            yield element
        text = text[at:]
    raise InputError("it is no JSON array", where=file.name, mend="use the file as LaMP publishes it")


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _batch(path: Path, rows: list[tuple[object, ...]], bad: list[BadRow], damaged: str | None = None) -> RawBatch:
    return RawBatch(str(path), pl.DataFrame(rows, schema=_FIELDS, orient="row"), unreadable(bad), damaged)


def _time(item: Item, order: int) -> str:
    date = _string(item.get("date"))
    if not date:
        return (_EPOCH + timedelta(days=order)).isoformat()
    return f"{date}-01-01" if re.fullmatch("[0-9]{4}", date) else date  # papers have a year only


def _join(title: object, abstract: object) -> str | None:
    return ". ".join(str(part) for part in (title, abstract) if part) or None


def _string(value: object) -> str | None:
    """A field as String. Half a surrogate pair, which JSON can spell and UTF-8 cannot, becomes ``?``."""
    return None if value is None else str(value).encode("utf-8", "replace").decode()
