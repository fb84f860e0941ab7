"""Engines map a shard function over descriptors and do nothing else. ``local`` does it in this process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

D = TypeVar("D")
M = TypeVar("M")


class Engine(Protocol):
    """Maps a shard function over shard descriptors; manifests come in any order."""

    def map(self, function: Callable[[D], M], descriptors: Sequence[D]) -> Iterator[M]:
        """The manifest of every descriptor."""


class Local:
    """One shard after the other, in this process."""

    def map(self, function: Callable[[D], M], descriptors: Sequence[D]) -> Iterator[M]:
        yield from map(function, descriptors)
