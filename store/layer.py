"""One bundle's states without its bases: from a user's key to the row that holds their records.

Blocks are checked when a row near them is first read: rows go by groups, and a group is open once the blocks that hold
its records were compared with the manifest's hashes and its offsets were found sane. So a lookup pays one byte for safety.
"""

import threading
from bisect import bisect_left, bisect_right
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import CorruptError
from store.manifest import ERASED, INDEX, MEND, Manifest
from store.mapped import Mapped, Part

#: Rows of a group.
GROUP = 1024
#: Users that share the first bits of their keys, on average: a search for one begins among so many.
NEAR = 16


class Layer:
    """The states of one bundle without its bases.

    Args:
        manifest: the bundle's.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        counts = [count for _, count in manifest.states]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.users = int(self._starts[-1])
        #: First row of each file, for one row and for many.
        self.starts, self.first = self._starts[:-1].tolist(), self._starts[:-1]
        self.open_groups = bytearray(-(-self.users // GROUP))
        self.groups = np.frombuffer(self.open_groups, np.uint8)
        self._parts: list[Part | None] = [None] * len(counts)
        self._lock = threading.Lock()
        self._gone = self._load("gone.arrow", INDEX)
        #: Tags of everyone erased, as of this bundle.
        self.erased = frozenset(Mapped(manifest, "erased.arrow", ERASED, whole=True).batch.column("tag").to_pylist())

    def _load(self, name: str, schema: pa.Schema) -> list[npt.NDArray[Any]]:
        """Columns of a file of keys."""
        mapped = Mapped(self.manifest, name, schema, whole=True)
        columns = [column.to_numpy(zero_copy_only=False) for column in mapped.batch.columns]
        if (columns[0][:-1] > columns[0][1:]).any():
            raise mapped.corrupt("is not sorted")
        return columns

    @cached_property
    def _index(self) -> list[npt.NDArray[Any]]:
        columns = self._load("index.arrow", INDEX)
        if len(columns[0]) != self.users:
            raise CorruptError(f"index of {len(columns[0])} users, not {self.users}", where=str(self.manifest.path), mend=MEND)
        return columns

    @cached_property
    def keys(self) -> npt.NDArray[np.int64]:
        """Keys of all users, ascending."""
        return self._index[0]

    @cached_property
    def checks(self) -> memoryview:
        """Checks of all users, in the order of the keys."""
        return memoryview(self._index[1])  # type: ignore[arg-type]

    @cached_property
    def gone(self) -> frozenset[tuple[int, int]]:
        """Key and check of users whom no base may answer for."""
        return frozenset(zip(*(column.tolist() for column in self._gone), strict=True))

    @cached_property
    def _near(self) -> tuple[int, int, memoryview, memoryview]:
        """How far a key is shifted to its first bits, half the number of their values, where the keys of each begin, and all keys.

        Keys are hashes, so their first bits tell nearly where they lie: a few steps of a search, where all keys take twenty.
        """
        shift = 64 - max(1, (self.users // NEAR).bit_length())
        half = 1 << 63 - shift
        starts = self.keys.searchsorted(np.arange(-half, half, dtype=np.int64) << shift)
        return shift, half, memoryview(np.append(starts, self.users)), memoryview(self.keys)  # type: ignore[arg-type]

    def find_one(self, key: int, check: int) -> int:
        """Row of a user; -1 if they are not in this layer."""
        shift, half, starts, keys = self._near
        bits = (key >> shift) + half
        row, stop = starts[bits], starts[bits + 1]
        row = bisect_left(keys, key, row, stop)
        while row < stop and keys[row] == key:  # users of one key lie side by side
            if self.checks[row] == check:
                return row
            row += 1
        return -1

    def find(self, keys: npt.NDArray[np.int64], checks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows of users ``[n]``; -1 where they are not in this layer."""
        if not self.users:
            return np.full(len(keys), -1, np.int64)
        rows = self.keys.searchsorted(keys)
        rows[rows == self.users] = 0
        same = self.keys[rows] == keys
        exact = same & (self._index[1][rows] == checks)
        rows[~exact] = -1
        for place in np.flatnonzero(same & ~exact).tolist():
            rows[place] = self.find_one(int(keys[place]), int(checks[place]))
        return rows

    def part(self, number: int) -> Part:
        """A states file, mapped when first asked for."""
        found = self._parts[number]
        if found is None:
            with self._lock:
                found = self._parts[number]
                if found is None:
                    name, count = self.manifest.states[number]
                    found = self._parts[number] = Part(self.manifest, name, count)
        return found

    def locate(self, row: int) -> tuple[Part, int]:
        """The file that holds a row, and its place there; its blocks are checked."""
        if not self.open_groups[row // GROUP]:
            self.open_group(row // GROUP)
        number = bisect_right(self.starts, row) - 1
        return self._parts[number] or self.part(number), row - self.starts[number]

    def open_group(self, group: int) -> None:
        """Check the blocks behind one group of rows.

        Raises:
            CorruptError: they are not what the manifest says.
        """
        low, high = group * GROUP, min(self.users, (group + 1) * GROUP)
        while low < high:
            number = bisect_right(self.starts, low) - 1
            start, end = self.starts[number], int(self._starts[number + 1])
            self.part(number).open_rows(low - start, min(high, end) - start)
            low = min(high, end)
        self.open_groups[group] = 1

    def open_all(self) -> None:
        """Check every block: a bundle that goes into service can be warmed, so that no lookup pays for it."""
        self._near  # noqa: B018
        for group in range(len(self.open_groups)):
            if not self.open_groups[group]:
                self.open_group(group)
