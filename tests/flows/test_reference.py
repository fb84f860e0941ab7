"""The written references say what the code says."""

from collections.abc import Iterator
from typing import Any

from rich.text import Text
from typer.main import get_command

from flows.cli import app
from flows.reference import DOCS, pages


def test_the_references_are_of_this_code() -> None:
    for name, text in pages().items():
        assert (DOCS / name).read_text() == text, f"{name} is stale: python -m flows.reference"


def test_help_shows_all_of_its_text() -> None:
    """Square brackets are markup to rich: ``[default: …]`` would not be shown."""

    def texts(command: Any) -> Iterator[str]:
        yield from (text for text in (command.help, *(getattr(p, "help", None) for p in command.params)) if text)
        for child in getattr(command, "commands", {}).values():
            yield from texts(child)

    found = list(texts(get_command(app)))
    assert len(found) > 80
    assert [text for text in found if Text.from_markup(text).plain != text] == []
