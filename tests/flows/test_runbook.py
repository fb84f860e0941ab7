"""The runbook has an entry for whatever the code can say, and quotes what the code does say."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import rounds, runbook
from flows.commands.ingest import DAMAGED
from flows.console import EXIT_CODES
from flows.doctor import CHECKS
from pipelines.checks import CAUSES
from schemas import errors
from schemas.errors import CheckError, TapstateError

ROOT = Path(__file__).parents[2]
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TapstateError) and kind is not TapstateError]


@pytest.fixture(scope="module")
def page() -> str:
    return runbook.page()


def called(path: str, *names: str) -> Iterator[tuple[str, str]]:
    """Functions of a file that call one of ``names`` with a constant first argument, and that constant."""
    for function in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                    first = node.args[0]
                    if isinstance(first, ast.Constant):
                        yield function.name, str(first.value)


def test_every_error_has_an_entry_and_an_exit_code(page: str) -> None:
    assert len(KINDS) > 10
    assert all(f"### `{kind.__name__}`\n" in page for kind in KINDS)
    assert {kind.exit_code for kind in KINDS} | {0, DAMAGED} == set(EXIT_CODES)


def test_every_finding_has_an_entry(page: str) -> None:
    found = [pair for path in ("flows/doctor.py", "flows/rounds.py") for pair in called(path, "Finding")]
    # A finding is called like the function that looks: its docstring is the entry.
    assert [pair for pair in found if pair[0] != pair[1]] == []
    assert {name for _, name in found} == {check.__name__ for check in CHECKS}
    assert all(f"### `{name}`\n" in page for _, name in found)


def test_every_check_of_a_version_has_an_entry(page: str) -> None:
    names = {name for _, name in called("pipelines/checks.py", "_least", "_most")}
    assert names == set(CAUSES)
    assert all(f"| `{name}` |" in page for name in names)


def test_a_missing_entry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(CheckError, "__doc__", "It failed.\n\nSee: a message.")
        with pytest.raises(ValueError, match="CheckError has no entry"):
            runbook.page()
    with monkeypatch.context() as patch:
        patch.setattr(rounds.nights, "__doc__", None)
        with pytest.raises(ValueError, match="nights has no entry"):
            runbook.page()
    with monkeypatch.context() as patch:
        patch.delitem(CAUSES, "coverage")
        with pytest.raises(ValueError, match="coverage"):
            runbook.page()


def test_what_it_quotes_is_what_the_code_says(page: str) -> None:
    packages = ("schemas", "encoders", "store", "pipelines", "flows")
    code = "".join(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))
    quoted = [text for line in page.splitlines() if line.startswith("- **You see:**") for text in re.findall(r'"([^"]+)"', line)]
    assert len(quoted) > 20
    # Without the quotations themselves, which are docstrings of that very code.
    said = re.sub(r'"""(?:(?!""").)*?See:(?:(?!""").)*?"""', "", code, flags=re.S)
    parts = {part.strip(" ,:;") for text in quoted for part in re.split(r"…|\d+(?:\.\d+)?", text)}
    assert [part for part in sorted(parts) if len(part) > 5 and part not in said] == []


def test_a_message_begins_with_its_entry(tapstate: Callable[..., tuple[int, str, str]], tmp_path: Path, page: str) -> None:
    code, _, err = tapstate("--home", str(tmp_path / "none"), "versions")
    name, _, what = err.partition(": ")
    assert (code, f"### `{name}`\n" in page, what.startswith("no tapstate home there")) == (1, True, True)
