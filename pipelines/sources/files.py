"""Files of a source: on a local disk or in an object store, plain or gzip, read as a stream of bytes."""

import fnmatch
import glob
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from schemas.errors import InputError

CHUNK = 8 << 20
#: gzip is fed in small pieces: what was decoded before a corrupt piece still counts.
_PIECE = 16 << 10
_MAGIC = b"\x1f\x8b"

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
#: JSON lines often come as ``.json`` too, but a directory's other ``.json`` files are not events: named files only.
_NAMED_ONLY = {".json": "jsonl"}


class DamagedError(Exception):
    """The rest of a file cannot be read; what came before it counts."""


@dataclass(frozen=True)
class File:
    """One input file: its name as given, its format (``parquet``, ``csv``, ``tsv``, ``jsonl``) and where it lies."""

    name: str
    format: str
    gzip: bool
    path: str
    store: ObjectStore | None = None

    def chunks(self) -> Iterator[bytes]:
        """The (decompressed) bytes, in chunks of about 8 MiB.

        Raises:
            InputError: the file cannot be opened or read, or is named ``.gz`` and is not gzip.
            DamagedError: the gzip data ends or breaks in the middle; all bytes before that were yielded.
        """
        raw = self._raw()
        return _gunzip(raw, self.name) if self.gzip else raw

    def open(self) -> BinaryIO:
        """A seekable binary file. Raises InputError when it cannot be opened."""
        try:
            if self.store is None:
                return open(self.path, "rb")
            return io.BufferedReader(_Remote(self.store, self.path), 1 << 20)
        except (OSError, BaseError) as error:
            raise _cannot_read(self.name, error) from error

    def _raw(self) -> Iterator[bytes]:
        try:
            if self.store is not None:
                for part in obstore.get(self.store, self.path).stream(min_chunk_size=CHUNK):
                    yield bytes(part)
            else:
                with open(self.path, "rb", buffering=0) as file:
                    while chunk := file.read(CHUNK):
                        yield chunk
        except (OSError, BaseError) as error:
            raise _cannot_read(self.name, error) from error


def resolve(entries: Sequence[str]) -> list[File]:
    """Files behind the entries: a file, a directory (all supported files below it), a glob, or an object-store URI.

    Raises:
        InputError: an entry names nothing, or a file of a format that is not supported.
    """
    found: dict[str, File] = {}
    for entry in entries:
        if urlsplit(entry).scheme == "file":
            entry = unquote(urlsplit(entry).path)
        for file in _remote(entry) if "://" in entry else _local(entry):
            found.setdefault(file.name, file)
    return list(found.values())


def _local(entry: str) -> list[File]:
    path = Path(entry)
    if path.is_file():
        return [_file(entry, entry)]
    if path.is_dir():
        names = sorted(str(p) for p in path.rglob("*") if p.is_file())
    elif glob.has_magic(entry):
        names = sorted(p for p in glob.glob(entry, recursive=True) if Path(p).is_file())
    else:
        raise InputError("no such file or directory", where=entry, mend="check the path")
    return _supported(entry, ((name, name) for name in names))


def _remote(entry: str) -> list[File]:
    scheme, _, rest = entry.partition("://")
    bucket, _, key = rest.partition("/")
    root = f"{scheme}://{bucket}"
    try:
        store = from_url(root)
        if not glob.has_magic(key) and key and not key.endswith("/"):
            try:
                obstore.head(store, key)
                return [_file(entry, key, store)]
            except FileNotFoundError:
                pass
        prefix = key
        if glob.has_magic(key):  # list only below the last folder without a wildcard
            prefix = key[: min(key.index(c) for c in "*?[" if c in key)].rpartition("/")[0]
        keys = sorted(item["path"] for page in obstore.list(store, prefix=prefix.rstrip("/") or None) for item in page)
    except (OSError, BaseError, ValueError) as error:
        raise _cannot_read(entry, error) from error
    if glob.has_magic(key):
        keys = [k for k in keys if _matches(k, key)]
    return _supported(entry, ((f"{root}/{k}", k) for k in keys), store)


def _supported(entry: str, names: Iterable[tuple[str, str]], store: ObjectStore | None = None) -> list[File]:
    """Files of a listing that have a format; hidden files (``.ipynb_checkpoints``) are not data."""
    kept = [(name, path) for name, path in names if _format(path)[0] and not PurePosixPath(path).name.startswith(".")]
    if not kept:
        raise InputError(f"no file with a known ending ({', '.join(FORMATS)}, .gz)", where=entry, mend="check the path")
    return [_file(name, path, store) for name, path in kept]


def _file(name: str, path: str, store: ObjectStore | None = None) -> File:
    ending, zipped = _format(path, FORMATS | _NAMED_ONLY)
    if not ending:
        known = ", ".join(FORMATS)
        raise InputError(f"a file's name must end in one of {known} (text formats also .gz)", where=name)
    return File(name, ending, zipped, path, store)


def _format(path: str, formats: dict[str, str] = FORMATS) -> tuple[str, bool]:
    name = path.lower()
    zipped = name.endswith(".gz")
    ending = formats.get(PurePosixPath(name.removesuffix(".gz")).suffix, "")
    return ("" if zipped and ending == "parquet" else ending), zipped


def _matches(key: str, pattern: str) -> bool:
    """As a shell does it: ``*`` stays in one folder, ``**`` goes below."""
    if "**" in pattern:
        return fnmatch.fnmatchcase(key, pattern.replace("**/", "*"))
    parts, patterns = key.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _gunzip(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    engine, begun = zlib.decompressobj(wbits=31), False
    out: list[bytes] = []
    size = 0
    try:
        for chunk in chunks:
            if not begun and not chunk.startswith(_MAGIC):
                raise InputError("the name says gzip, the content does not", where=name, mend="drop .gz from its name")
            begun = True
            for start in range(0, len(chunk), _PIECE):
                piece = chunk[start : start + _PIECE]
                while piece:
                    if engine.eof:  # members may follow each other, or zeros that pad the last one
                        piece = piece.lstrip(b"\0")
                        engine = zlib.decompressobj(wbits=31) if piece else engine
                        continue
                    out.append(engine.decompress(piece, CHUNK))
                    size += len(out[-1])
                    piece = engine.unused_data if engine.eof else engine.unconsumed_tail
                    if size >= CHUNK:
                        yield b"".join(out)
                        out, size = [], 0
    except zlib.error as error:
        yield b"".join(out)
        raise DamagedError(f"corrupt gzip: {error}") from error
    yield b"".join(out) + (b"" if engine.eof else engine.flush())
    if begun and not engine.eof:
        raise DamagedError("truncated gzip")


class _Remote(io.RawIOBase):
    """An object of a store as a file, since pyarrow wants Python's own file methods."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        self._reader = obstore.open_reader(store, path, buffer_size=1 << 20)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: object) -> int:
        view = cast(memoryview, buffer)
        data = bytes(self._reader.read(len(view)))
        view[: len(data)] = data
        return len(data)


def _cannot_read(name: str, error: Exception) -> InputError:
    text = str(error).strip().splitlines()
    return InputError(f"cannot read it: {text[0] if text else type(error).__name__}", where=name)
