"""Reports of a home: pages of figures, one a version or pair of versions. They can be made anew at any time."""

from collections.abc import Iterable
from functools import partial

from store.action import Action
from store.home import Home
from store.versions import retired

FOLDER = "reports"


def page(version: int, base: int | None = None) -> str:
    """Where the page of a version is, or of the way from ``base`` to it."""
    return f"{FOLDER}/{version}.html" if base is None else f"{FOLDER}/{base}-{version}.html"


def pages(home: Home) -> list[str]:
    """Paths of all pages."""
    return [f"{FOLDER}/{name}" for name in home.objects.names(FOLDER)]


def old_pages(home: Home, retiring: set[int]) -> Iterable[Action]:
    """Pages of versions that are retired or about to be."""
    gone, files = retired(home) | retiring, home.objects.files(FOLDER)
    for path, (size, _) in sorted(files.items()):
        numbers = path.rpartition("/")[2].removesuffix(".html").split("-")
        if any(number.isdecimal() and int(number) in gone for number in numbers):
            yield Action(path, "it is of a version that is retired", size, partial(home.objects.remove, path))
