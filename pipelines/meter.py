"""How long work reports its progress, without knowing who shows it."""

from typing import Any, Protocol


class Meter(Protocol):
    """A set of named bars."""

    def start(self, name: str, total: int | None, unit: str) -> None:
        """A bar ``name``, towards ``total`` units (None: not known)."""

    def advance(self, name: str, count: int, **figures: Any) -> None:
        """``count`` units more, with figures to show beside."""

    def finish(self, name: str) -> None:
        """The bar's work is done."""


class Silent:
    """A meter that shows nothing."""

    def start(self, name: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, name: str, count: int, **figures: Any) -> None:
        pass

    def finish(self, name: str) -> None:
        pass
