"""Proof of erasure: every physical file of a home, named by a record or not, decoded and searched, and searched as raw bytes.

Compression hides values from a search of bytes, and decoding hides bytes that no reader returns: so both. A value that holds a
needle as part of a longer word (``u1`` in ``u12``), a text of another user that mentions the id, and another user's equal vector are told
apart by decoding; they explain the raw hits of the same file, and a file that cannot be decoded gets no such benefit.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.records import ProofRecord
from store.decode import decode
from store.home import Home
from store.needles import Needles
from store.scratch import scratch

#: Columns of texts that belong to somebody else even where they hold an id, and columns that say whose row it is.
THEIRS = ("text", "target", "task", "source", "sources", "created_by")
IDENTITY = ("key", "user_key", "user_id")
MODELS = "models/"
#: Raw bytes searched at once, with this much of the block before it: the longest needle, and then some.
BLOCK, OVERLAP = 1 << 24, 512


@dataclass
class Search:
    """What was found, by file.

    Attributes:
        hits: decoded and raw hits by ``where: kind``.
        mentions: texts of others that hold an id as a word.
    """

    files: int = 0
    decoded: int = 0
    bytes: int = 0
    mentions: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    models: set[str] = field(default_factory=set)

    def record(self, needles: Needles) -> ProofRecord:
        """The search as a receipt keeps it."""
        hits = tuple(f"{where} ({count})" for where, count in sorted(self.hits.items()))
        models = tuple(sorted(self.models))
        return ProofRecord(
            files=self.files, decoded=self.decoded, bytes=self.bytes, needles=len(needles), hits=hits, mentions=self.mentions, models=models
        )


def prove(home: Home, needles: Needles, others: tuple[Path, ...] = ()) -> Search:
    """Search the whole home, and the directories ``others``.

    Raises:
        HomeError: the home cannot be read.
    """
    search = Search()
    for name, path in _files(home, others):
        try:
            _file(search, needles, name, path)
        except FileNotFoundError:
            # Another writer removed it meanwhile.
            continue
    return search


def _files(home: Home, others: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """Every file by name and local path; of a remote home, one copy at a time."""
    roots = [*others]
    if home.objects.remote:
        with scratch() as directory:
            for name in home.objects.files():
                copy = directory / name.rsplit("/", 1)[-1]
                data = home.objects.get(name)
                if data is not None:
                    copy.write_bytes(data)
                    yield name, copy
                    copy.unlink()
    else:
        roots.append(Path(home.uri))
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix() if root == Path(home.uri) else str(path), path


def _file(search: Search, needles: Needles, name: str, path: Path) -> None:
    search.files += 1
    found: Counter[str] = Counter()
    explained = False
    batches = decode(path)
    if batches is not None:
        search.decoded += 1
        for batch in batches:
            theirs = _doomed(batch, needles)
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                hits, partial, mentions = _column(column, values, needles, theirs)
                found[f"{name}: {column}"] += hits
                search.mentions += mentions
                explained |= bool(partial or mentions)
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    search.bytes += len(data)
    for start in range(0, len(data), BLOCK):
        block = np.asarray(data[max(0, start - OVERLAP) : start + BLOCK])
        for end, needle in [] if explained else needles.raw.find(block):
            if batches is not None or len(needle) >= 8 or _is_word(block, end, len(needle)):
                found[f"{name}: raw bytes"] += 1
    if name.startswith(MODELS) and +found:
        search.models.add(name)
    else:
        search.hits.update(+found)


def _doomed(batch: pa.RecordBatch, needles: Needles) -> npt.NDArray[np.bool_] | None:
    """Which rows are of an erased user or text; None if the batch does not say."""
    doomed = None
    whose = np.concatenate([needles.keys, needles.owners])
    for name in IDENTITY:
        if name in batch.schema.names:
            column = batch.column(name)
            if pa.types.is_integer(column.type):
                mine = np.isin(column.to_numpy(zero_copy_only=False), whose)
            elif pa.types.is_string(column.type):
                ids = pa.array([word.decode() for word in needles.ids], pa.string())
                mine = pc.is_in(column, value_set=ids).to_numpy(zero_copy_only=False)
            else:
                continue
            doomed = mine if doomed is None else doomed | mine
    return doomed


def _column(name: str, values: pa.Array, needles: Needles, theirs: npt.NDArray[np.bool_] | None) -> tuple[int, int, int]:
    """Hits, needles that are only part of a value or another's equal vector, and mentions, in one decoded column."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        flat = values.flatten()
        if pa.types.is_integer(flat.type):
            return _column(name, flat, needles, None)
        if not pa.types.is_fixed_size_list(values.type) or not pa.types.is_floating(flat.type):
            return 0, 0, 0
        data = np.frombuffer(flat.to_numpy(zero_copy_only=False).tobytes(), np.uint8)
        row = max(1, len(data) // max(1, len(values)))
        places = np.array([(end - 1) // row for end, _ in needles.shapes.find(data)], np.int64)
        hits = len(places) if theirs is None else int(theirs[places].sum())
        return hits, len(places) - hits, 0
    if pa.types.is_integer(values.type):
        return int(np.isin(values.drop_null().to_numpy(), needles.keys).sum()) if values.type == pa.int64() else 0, 0, 0
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_binary(values.type):
        return _strings(name, values, needles, theirs)
    return 0, 0, 0


def _strings(name: str, values: pa.Array, needles: Needles, theirs: npt.NDArray[np.bool_] | None) -> tuple[int, int, int]:
    texts = values.cast(pa.large_binary()).drop_null()
    # Outside the columns of texts, a short text (a label, say) equals many a word that is nobody's.
    words = needles.words if name in (*THEIRS, "raw") else needles.ids | {text for text in needles.texts if len(text) >= 8}
    whole = int(pc.sum(pc.is_in(texts, value_set=pa.array(sorted(words), pa.large_binary()))).as_py() or 0)
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    body = texts.buffers()[2]
    if body is None:
        return whole, 0, 0
    data = np.frombuffer(body, np.uint8)[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    hits = partial = mentions = 0
    for end, needle in needles.spoken.find(data):
        row = int(np.searchsorted(offsets, end, side="left")) - 1
        start = end - len(needle)
        if start < offsets[row]:
            continue
        if start == offsets[row] and end == offsets[row + 1]:
            continue
        value = data[offsets[row] : offsets[row + 1]]
        if needle in needles.ids and _is_word(value, end - int(offsets[row]), len(needle)):
            # A word of somebody else's text; elsewhere (raw rejects, JSON, logs) it names the user.
            if name in THEIRS:
                mentions += 1
            else:
                hits += 1
        elif needle in needles.texts and name not in (*THEIRS, "raw") and len(needle) >= 8:
            hits += 1
        else:
            partial += 1
    return whole + hits, partial, mentions


def _is_word(data: npt.NDArray[np.uint8], end: int, length: int) -> bool:
    """Whether what ends there stands apart from letters and digits (of any script: bytes from 128 on)."""
    start = end - length
    before = data[start - 1] if start > 0 else 32
    after = data[end] if end < len(data) else 32
    return not any(byte >= 128 or chr(int(byte)).isalnum() or chr(int(byte)) in "_-" for byte in (before, after))
