"""Needles: byte strings that must be nowhere, searched for in many at once.

Every needle is anchored at its last 8 bytes (4 for short ones). All windows of a buffer are looked up in a bitmap of hashed
anchors, the few that pass are compared in full: one vectorised pass over the bytes, whatever the number of needles.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
#: Bytes of a needle that are compared, its last ones; and the fewest that are searched for as raw bytes.
LONGEST, SHORTEST = 256, 4
#: Bytes searched at once, and bits of the bitmap's index.
CHUNK, BITS = 1 << 22, 20
_GOLDEN: dict[int, Any] = {8: np.uint64(0x9E3779B97F4A7C15), 4: np.uint32(0x9E3779B1)}
_KINDS: dict[int, Any] = {8: np.uint64, 4: np.uint32}


@dataclass
class Needles:
    """What is searched for.

    Attributes:
        ids: ids as UTF-8; short ones, and words within longer words, are told apart by what stands beside them.
        texts: texts and targets as UTF-8.
        vectors: rows of vector columns, as stored.
        keys: int64 keys of users, events and texts.
        owners: keys of users who stay; a vector found in a row of theirs is found, as one in a row of ``keys`` is.
    """

    ids: frozenset[bytes] = frozenset()
    texts: frozenset[bytes] = frozenset()
    vectors: frozenset[bytes] = frozenset()
    keys: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    owners: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        self.keys = np.unique(self.keys)
        self.words = self.ids | self.texts
        self.raw = Anchors(
            [*self.words, *self.vectors, *(key.tobytes() for key in self.keys), *(str(key).encode() for key in self.keys.tolist())]
        )
        self.spoken = Anchors(self.words)
        self.shapes = Anchors(self.vectors)

    def __len__(self) -> int:
        return len(self.words) + len(self.vectors) + len(self.keys)


class Anchors:
    """A set of needles made ready to be found.

    Args:
        needles: byte strings; those shorter than 4 bytes are left out.
    """

    def __init__(self, needles: Iterable[bytes]) -> None:
        kept = sorted({needle for needle in needles if len(needle) >= SHORTEST})
        self._by_width: list[tuple[int, npt.NDArray[np.bool_], npt.NDArray[Any], dict[int, list[bytes]]]] = []
        for width, kind in _KINDS.items():
            groups: dict[int, list[bytes]] = {}
            for needle in kept:
                if (len(needle) >= 8) == (width == 8):
                    groups.setdefault(int.from_bytes(needle[-width:], "little"), []).append(needle)
            if groups:
                anchors = np.array(sorted(groups), kind)
                bitmap = np.zeros(1 << BITS, bool)
                bitmap[self._hash(anchors, width)] = True
                self._by_width.append((width, bitmap, anchors, groups))

    @staticmethod
    def _hash(windows: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
        with np.errstate(over="ignore"):
            out: npt.NDArray[Any] = (windows * _GOLDEN[width]) >> windows.dtype.type(8 * width - BITS)
        return out

    def find(self, data: Bytes) -> list[tuple[int, bytes]]:
        """Where in ``data`` needles end: ``(offset of the end, needle)``. Long needles are compared by their last 256 bytes."""
        found = []
        for width, bitmap, anchors, groups in self._by_width:
            for start in range(0, len(data), CHUNK):
                for end in self._candidates(data[start : start + CHUNK + width - 1], width, bitmap, anchors):
                    place = start + int(end)
                    for needle in groups[int.from_bytes(data[place - width : place].tobytes(), "little")]:
                        tail = needle[-LONGEST:]
                        if place >= len(tail) and data[place - len(tail) : place].tobytes() == tail:
                            found.append((place, needle))
        return found

    def _candidates(self, data: Bytes, width: int, bitmap: npt.NDArray[np.bool_], anchors: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        ends = [np.empty(0, np.int64)]
        for shift in range(width):
            count = (len(data) - shift) // width
            if count > 0:
                windows = np.frombuffer(data[shift : shift + count * width].tobytes(), anchors.dtype)
                maybe = np.flatnonzero(bitmap[self._hash(windows, width)])
                sure = maybe[anchors[np.minimum(np.searchsorted(anchors, windows[maybe]), len(anchors) - 1)] == windows[maybe]]
                ends.append(sure * width + shift + width)
        return np.concatenate(ends)
