"""One thing that maintenance would do: what, why, and about how many bytes."""

from collections.abc import Callable
from dataclasses import dataclass

from store.home import Home


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        what: the object or rows it is about.
        why: why nobody needs it.
        bytes: about what it frees; 0 where that is not known beforehand.
        act: does it.
    """

    what: str
    why: str
    bytes: int
    act: Callable[[], None]


def folder_bytes(home: Home, folder: str) -> int:
    """Bytes of everything below a folder of small objects."""
    return sum(size for size, _ in home.objects.files(folder).values())


def row_bytes(home: Home, table: str, rows: int) -> int:
    """About how many bytes ``rows`` rows of a table take."""
    dataset = home.tables.open(table)
    total = sum(size for path, (size, _) in home.tables.files(table).items() if path.startswith("data/"))
    return total * rows // max(1, dataset.count_rows()) if dataset is not None else 0


def table_names(home: Home) -> list[str]:
    """Names of the home's Lance tables."""
    return [name.removesuffix(".lance") for name in home.objects.names("lance") if name.endswith(".lance")]


def state_tables(home: Home) -> list[str]:
    """Names of the tables that hold states, one for each aggregator."""
    return [name for name in table_names(home) if name.startswith("states-")]
