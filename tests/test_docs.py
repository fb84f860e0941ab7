"""What the pages of docs/ name is there, and what they draw is drawn by this code."""

import importlib.util
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    """Files that it links to exist; pictures are whole, and say what they show to who cannot see them."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for shown, text, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", prose):
        if "://" in target or target.startswith("#"):
            continue
        found = page.parent / unquote(target.partition("#")[0])
        assert found.exists(), f"{page.name}: {target}"
        if shown:
            assert text, f"{page.name}: {target} has no text"
            assert ElementTree.parse(found).getroot().tag.endswith("svg")


def test_where_things_are_added_is_there() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text()
    named = set(re.findall(r"`((?:\w+/[\w./]*|README\.md|pyproject\.toml|constraints\.txt))`", page))
    assert len(named) > 30
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_pictures_of_the_concepts_are_the_codes() -> None:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = module.pictures()
    named = set(re.findall(r"\(concepts/(.*?)\)", (ROOT / "docs" / "concepts.md").read_text()))
    assert set(drawn) == named == {path.name for path in module.PLACE.iterdir()}
    for name, svg in drawn.items():
        assert words((module.PLACE / name).read_text()) == words(svg), f"{name} is stale: python -m docs.pictures"


def words(svg: str) -> list[str]:
    """What is written in a picture: its coordinates may differ in their last digits from machine to machine."""
    found = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert len(found) > 5
    return found
