"""Files of a bundle on mapped pages, each block compared with its hash before its bytes are believed."""

import errno
import hashlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import CorruptError, TapstateError
from store.manifest import MEND, Manifest
from store.packing import states_schema


class Mapped:
    """An Arrow file of one record batch, on mapped pages, checked block by block.

    Args:
        manifest: names the file's blocks.
        name: the file.
        schema: what it must hold.
        whole: check all blocks now; otherwise those of head and foot, and ``check`` does the others.

    Raises:
        CorruptError: not what the manifest says, or no such file of Arrow.
        NotFoundError: the whole bundle is gone since it was opened.
    """

    def __init__(self, manifest: Manifest, name: str, schema: pa.Schema, *, whole: bool) -> None:
        self.path, self.file, self._step = manifest.path / name, manifest.files[name], manifest.block_bytes
        self._checked = bytearray(len(self.file.blocks))
        try:
            with self.path.open("rb") as stream:
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise self.corrupt("is empty") from error
        except OSError as error:
            manifest.there()
            hint = "raise the limit of open files: ulimit -n" if error.errno == errno.EMFILE else MEND
            raise TapstateError(f"cannot map a file of the bundle: {error}", where=str(self.path), mend=hint) from error
        if len(self._bytes) != self.file.bytes:
            raise self.corrupt("is not as long as the manifest says")
        source = pa.py_buffer(self._bytes)
        self._start = source.address
        if whole:
            self.check(0, self.file.bytes)
        else:
            self.check(0, 1)
            self.check(self.file.bytes - 65_536, self.file.bytes)
        try:
            reader = pa.ipc.open_file(pa.BufferReader(source))
            if reader.num_record_batches != 1 or not reader.schema.equals(schema):
                raise self.corrupt(f"holds {reader.num_record_batches} batches of other columns than its kind has")
            self.batch = reader.get_batch(0)
            self.batch.validate()
        except (OSError, pa.ArrowException, MemoryError, UnicodeDecodeError) as error:
            raise self.corrupt(f"is no Arrow file: {error!s:.200}") from error
        for column in self.batch.columns:
            validity, *buffers = column.buffers()
            inside = all(b is None or not b.size or self._start <= b.address <= self._start + self.file.bytes - b.size for b in buffers)
            if (validity is not None and column.null_count) or not inside:
                raise self.corrupt("has nulls, or is compressed")

    def corrupt(self, what: str) -> CorruptError:
        """An error about this file."""
        return CorruptError(f"a states file {what}", where=str(self.path), mend=MEND)

    def check(self, low: int, high: int) -> None:
        """Compare the blocks that hold bytes ``low`` to ``high`` with their hashes, those that were not yet."""
        for block in range(max(0, low) // self._step, -(-min(high, self.file.bytes) // self._step)):
            if not self._checked[block]:
                with memoryview(self._bytes) as view, view[block * self._step : (block + 1) * self._step] as piece:
                    found = hashlib.sha256(piece).hexdigest()
                if found != self.file.blocks[block]:
                    raise self.corrupt("is not what the manifest says")
                self._checked[block] = 1

    def check_buffer(self, buffer: pa.Buffer, low: int, high: int) -> None:
        """As ``check``, for bytes of a column's buffer."""
        start = buffer.address - self._start
        if high > low:
            self.check(start + low, start + high)


class Part:
    """One states file.

    Attributes:
        user_columns: name and array ``[n, *shape]`` of each user column.
        item_columns: the same of each item column, all users' items end to end.
        ends: int64 ``[n + 1]`` in bytes, ``step`` an item: user i's items are ``ends[i]:ends[i + 1]``.
        user_bytes, item_bytes: the same records as plain bytes.
    """

    def __init__(self, manifest: Manifest, name: str, count: int) -> None:
        self._mapped = Mapped(manifest, name, states_schema(manifest.spec), whole=False)
        batch = self._mapped.batch
        if batch.num_rows != count:
            raise self._mapped.corrupt(f"holds {batch.num_rows} users, not {count}")
        user, item = manifest.spec.record("user"), manifest.spec.record("item")
        _, (_, self._user_buffer), (_, self._ends_buffer, self._item_buffer) = (column.buffers() for column in batch.columns)
        self._capacity, self.step = manifest.spec.capacity, max(1, item.itemsize)
        users: npt.NDArray[Any] = np.frombuffer(self._user_buffer, user, count) if user.itemsize else np.zeros(count, user)
        self._width = user.itemsize
        self.ends = np.frombuffer(self._ends_buffer, "<i8", count + 1)
        whole = len(self._item_buffer) // self.step if self._item_buffer and item.itemsize else 0
        items: npt.NDArray[Any] = np.frombuffer(self._item_buffer, item, whole) if whole else np.zeros(0, item)
        self._items = len(items)
        self.user_bytes, self.item_bytes = (
            memoryview(buffer) if buffer is not None else memoryview(b"") for buffer in (self._user_buffer, self._item_buffer)
        )
        self.user_columns = [(name, users[name]) for name in user.names or ()]
        self.item_columns = [(name, items[name]) for name in item.names or ()]
        # Plain Python numbers at a third of the price of numpy's.
        self.ends_view = memoryview(self.ends)  # type: ignore[arg-type]

    def open_rows(self, low: int, high: int) -> None:
        """Check all that rows ``low`` to ``high`` are read from."""
        self._mapped.check_buffer(self._user_buffer, low * self._width, high * self._width)
        self._mapped.check_buffer(self._ends_buffer, low * 8, (high + 1) * 8)
        ends = self.ends[low : high + 1]
        lengths = np.diff(ends)
        sane = ends[0] >= 0 and ends[-1] <= self._items * self.step and lengths.min(initial=0) >= 0
        if not sane or (ends % self.step).any() or lengths.max(initial=0) > self._capacity * self.step:
            raise self._mapped.corrupt("has items that no user can have")
        if self._item_buffer is not None:
            self._mapped.check_buffer(self._item_buffer, int(ends[0]), int(ends[-1]))
