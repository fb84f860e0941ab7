"""Users' states out of a chain of layers: a delta bundle's own, then its base's, then that one's base's."""

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import InputError
from schemas.states import StateBatch, StateSpec
from store.layer import GROUP, Layer
from store.manifest import erased_tag

#: What a lookup found, one code a user.
KNOWN, UNKNOWN, ERASED = 0, 1, 2
_pair = struct.Struct(">qq").unpack_from
_sha256 = hashlib.sha256


class Codes:
    """What a lookup found.

    Attributes:
        each: int8 ``[n]``, one of ``KNOWN``, ``UNKNOWN`` and ``ERASED``.
        known: bool ``[n]``.
    """

    def __init__(self, each: npt.NDArray[np.int8]) -> None:
        self.each, self.known = each, each == KNOWN
        self.each.flags.writeable = self.known.flags.writeable = False


#: Of one user, ready made.
_ONE = [Codes(np.array([code], np.int8)) for code in (KNOWN, UNKNOWN, ERASED)]


class Lookup:
    """States by user id.

    Args:
        layers: newest first; the first that holds a user, or says that they are gone, answers.
        spec: the columns.
    """

    def __init__(self, layers: Sequence[Layer], spec: StateSpec) -> None:
        self.layers = layers
        # The newest bundle's list is complete; who came back since is in its states, which are asked first.
        self._erased, self._salt = layers[0].erased, layers[0].manifest.data["erased_salt"]
        self._user, self._item = spec.record("user"), spec.record("item")
        empty: npt.NDArray[Any] = np.zeros(1, self._user)
        for column in spec.columns:
            if column.per == "user":
                empty[column.name] = column.empty
        self._empty = empty.tobytes()
        self._offsets = np.stack([np.zeros(spec.capacity + 1, np.int64), np.arange(spec.capacity + 1)], 1)
        self._offsets.flags.writeable = False

    def __call__(self, users: Sequence[str]) -> tuple[StateBatch, Codes]:
        """States of the users and a code for each; one who is not known has the empty state.

        Arrays are read-only; one user's are views of the mapped file.

        Raises:
            InputError: a user id that is no text.
            CorruptError: bytes read for the first time that are not what the manifest says.
        """
        try:
            return self._one(users[0]) if len(users) == 1 else self._many(users)
        except (AttributeError, UnicodeEncodeError) as error:
            raise InputError("a user id that is no text", mend="give ids as strings of valid Unicode") from error

    def row(self, row: int | None) -> StateBatch:
        """The state at a row of the newest layer; None is the empty state."""
        return self._nobody() if row is None else self._view(self.layers[0], row)

    def _one(self, user: str) -> tuple[StateBatch, Codes]:
        key, check = _pair(_sha256(user.encode()).digest())
        for depth, layer in enumerate(self.layers):
            row = layer.find_one(key, check)
            if row >= 0:
                return self._view(layer, row), _ONE[KNOWN]
            if depth == 0 and self._erased and erased_tag(self._salt, user) in self._erased:
                return self._nobody(), _ONE[ERASED]
            if layer.gone and (key, check) in layer.gone:
                break
        return self._nobody(), _ONE[UNKNOWN]

    def _view(self, layer: Layer, row: int) -> StateBatch:
        part, row = layer.locate(row)
        low, high = part.ends_view[row] // part.step, part.ends_view[row + 1] // part.step
        columns, mine, items = {}, slice(row, row + 1), slice(low, high)
        for name, column in part.user_columns:
            columns[name] = column[mine]
        for name, column in part.item_columns:
            columns[name] = column[items]
        return StateBatch(columns, self._offsets[high - low])

    def _nobody(self) -> StateBatch:
        return self._together([self._empty], [b""], np.zeros(1, np.int64))

    def _many(self, users: Sequence[str]) -> tuple[StateBatch, Codes]:
        count = len(users)
        digests = b"".join([_sha256(user.encode()).digest() for user in users])
        keys, checks = np.frombuffer(digests, ">i8").reshape(count, 4)[:, :2].T.astype(np.int64)
        return self.by_key(keys, checks, users)

    def by_key(
        self, keys: npt.NDArray[np.int64], checks: npt.NDArray[np.int64], users: Sequence[str] | None = None
    ) -> tuple[StateBatch, Codes]:
        """As a call, by key and check, ``[n]`` each; without the ids, nobody is told to be erased."""
        count = len(keys)
        codes, lengths = np.full(count, UNKNOWN, np.int8), np.zeros(count, np.int64)
        records: list[bytes | memoryview] = [self._empty] * count
        items: list[bytes | memoryview] = [b""] * count
        left = np.arange(count)
        for depth, layer in enumerate(self.layers):
            rows = layer.find(keys[left], checks[left])
            found = rows >= 0
            places = left[found]
            codes[places] = KNOWN
            lengths[places] = self._gather(layer, rows[found], places.tolist(), records, items)
            left = left[~found]
            if depth == 0 and self._erased and users is not None:
                erased = np.array([erased_tag(self._salt, users[place]) in self._erased for place in left.tolist()], bool)
                codes[left[erased]] = ERASED
                left = left[~erased]
            if layer.gone and len(left):
                pairs = zip(keys[left].tolist(), checks[left].tolist(), strict=True)
                left = left[[pair not in layer.gone for pair in pairs]]
        return self._together(records, items, lengths), Codes(codes)

    def _gather(
        self,
        layer: Layer,
        rows: npt.NDArray[np.int64],
        places: list[int],
        records: list[bytes | memoryview],
        items: list[bytes | memoryview],
    ) -> list[int]:
        """Put the records of ``rows`` at ``places``; bytes of items of each."""
        groups = rows // GROUP
        for group in set(groups[layer.groups[groups] == 0].tolist()):
            layer.open_group(group)
        numbers = layer.first.searchsorted(rows, side="right") - 1
        parts = {number: layer.part(number) for number in set(numbers.tolist())}
        width, lengths = self._user.itemsize, []
        for place, number, row in zip(places, numbers.tolist(), (rows - layer.first[numbers]).tolist(), strict=True):
            part = parts[number]
            low, high = part.ends_view[row], part.ends_view[row + 1]
            records[place] = part.user_bytes[row * width : row * width + width]
            items[place] = part.item_bytes[low:high]
            lengths.append(high - low)
        return lengths

    def _together(self, records: list[Any], items: list[Any], lengths: npt.NDArray[np.int64]) -> StateBatch:
        columns, offsets = {}, np.zeros(len(records) + 1, np.int64)
        for parts, dtype in ((records, self._user), (items, self._item)):
            if dtype.names:
                array: npt.NDArray[Any] = np.frombuffer(b"".join(parts), dtype)
                columns.update({name: array[name] for name in dtype.names})
        if self._item.names:
            np.cumsum(lengths // self._item.itemsize, out=offsets[1:])
        return StateBatch(columns, offsets)
