"""``manifest.json``: what a bundle says of itself, believed only after every word of it was checked."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.errors import CorruptError, NotFoundError
from schemas.events import MAX_TASKS
from schemas.keys import content_hash
from schemas.states import StateSpec

FORMAT = 2
MEND = "pull or make the bundle again: tapstate pull, tapstate bundle"
INDEX = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("check", pa.int64(), nullable=False)])
ERASED = pa.schema([pa.field("tag", pa.binary(16), nullable=False)])
#: Files that are the model's: a delta bundle may leave them to its base.
MODEL = ("head.onnx", "static_head.onnx", "query_encoder.onnx", "tokenizer.json")
#: And those of a head that comes with a LoRA for its LLM, as peft calls them.
BRIDGE = ("adapter_config.json", "adapter_model.safetensors")
#: Files checked when a bundle is opened; blocks of the others when they are first touched.
SMALL = ("gone.arrow", "erased.arrow", "golden.json", "tokenizer.json", "head.onnx", "static_head.onnx")
#: A manifest grows by 70 bytes for each block of states: this is room for some terabytes.
MOST_BYTES = 256 << 20
MOST_LAYERS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_STATES = re.compile(r"states/[0-9]{5,9}\.arrow")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """Size and the SHA-256 of each block of one file."""

    bytes: int
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    Attributes:
        data: all of it, as JSON gave it.
        path: the bundle's directory.
        files: this bundle's own files.
        states: name and users of each states file, in the order of the index.
        base: name and id of the bundle that a delta adds to, and the files it leaves to it.
    """

    data: Mapping[str, Any]
    path: Path
    bundle_id: str
    block_bytes: int
    files: Mapping[str, File]
    spec: StateSpec
    states: tuple[tuple[str, int], ...]
    base: tuple[str, str, frozenset[str]] | None

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest of the bundle at ``path``.

        Raises:
            NotFoundError: no bundle there.
            CorruptError: not a manifest, of a format this client does not know, or one that says what cannot be.
        """
        where = str(path / "manifest.json")
        try:
            if (path / "manifest.json").stat().st_size > MOST_BYTES:
                raise CorruptError(f"manifest.json is larger than {MOST_BYTES >> 20} MiB", where=where, mend=MEND)
            raw = (path / "manifest.json").read_bytes()
        except OSError as error:
            raise NotFoundError("no bundle there", where=str(path), mend="tapstate bundle") from error
        return cls.parse(raw, path)

    @classmethod
    def parse(cls, raw: bytes, path: Path) -> "Manifest":
        """As ``read``, from the file's bytes."""
        where = str(path / "manifest.json")
        try:
            data: Any = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"manifest.json is not JSON: {error}", where=where, mend=MEND) from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            mend = "write it anew: tapstate bundle" if found == 1 else "update the client"
            raise CorruptError(f"bundle of format {found!r:.20}, this client reads {FORMAT}", where=where, mend=mend)
        if data.get("bundle_id") != content_hash({k: v for k, v in data.items() if k not in ("created_at", "bundle_id")}):
            raise CorruptError("manifest.json is not what its bundle_id says", where=where, mend=MEND)
        try:
            return cls._checked(data, path)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise CorruptError(f"manifest.json says what cannot be: {error!r:.200}", where=where, mend=MEND) from error

    @classmethod
    def _checked(cls, data: dict[str, Any], path: Path) -> "Manifest":
        base, model = None, set(model_files(data["llm"]))
        if data["base"] is not None:
            left = frozenset(data["base"]["files"])
            _insist(left <= model, f"base.files {sorted(left)}")
            base = (_matched(_NAME, data["base"]["name"]), _matched(_HASH, data["base"]["bundle_id"]), left)
        block = _count(data["block_bytes"], 1 << 12, 1 << 30)
        files = {name: File(_count(f["bytes"]), tuple(_matched(_HASH, h) for h in f["sha256"])) for name, f in data["files"].items()}
        states = tuple((_matched(_STATES, f["name"]), _count(f["users"])) for f in data["states"]["files"])
        own = {
            "index.arrow",
            "gone.arrow",
            "erased.arrow",
            "golden.json",
            *(model - (base[2] if base else set())),
            *(name for name, _ in states),
        }
        _insist(set(files) == own, f"files {sorted(set(files) ^ own)[:3]} are listed but not wanted, or wanted but not listed")
        _insist(len({name for name, _ in states}) == len(states), "one states file is listed twice")
        for name, file in files.items():
            _insist(len(file.blocks) == -(-file.bytes // block), f"{name} has {file.bytes} bytes and {len(file.blocks)} blocks")
        spec = StateSpec.from_json(data["states"]["spec"])
        for column in spec.columns:
            _insist(column.per in ("user", "item") and all(_count(size, 1, 1 << 24) for size in column.shape), f"column {column}")
        _insist(all(spec.record(per).itemsize < 1 << 30 for per in ("user", "item")), "records of more than 1 GiB")
        for name in ("length", "dim"):
            _count(data["prefix"][name], 1, 1 << 24)
        for name in ("version", "users"):
            _count(data[name])
        for name in ("as_of", "valid_until"):
            _insist(isinstance(data[name], int) and abs(data[name]) < 1 << 62, name)
        _count(data["query_encoder"]["dim"], 1, 1 << 24)
        _matched(_HASH, data["erased_salt"])
        _insist(math.isfinite(data["prefix"].get("rms", 0)), "prefix.rms")
        tasks = data.get("tasks", [])
        _insist(isinstance(tasks, list) and all(isinstance(task, str) for task in tasks), "tasks")
        _insist(len(set(tasks)) == len(tasks) <= MAX_TASKS, "tasks")
        _insist(all(isinstance(data["llm"][name], str) for name in ("model", "fingerprint")), "llm")
        return cls(data, path, data["bundle_id"], block, files, spec, states, base)

    def inventory(self) -> None:
        """Compare the size of every file with what is there.

        Raises:
            CorruptError: names the first that differs.
        """
        for name, file in self.files.items():
            path = self.path / name
            if not path.is_file() or path.stat().st_size != file.bytes:
                raise CorruptError("a file is not what the manifest says", where=str(path), mend=MEND)

    def there(self) -> None:
        """Raise NotFoundError if the bundle was withdrawn: its users were erased, or a newer one took its place."""
        if not (self.path / "manifest.json").is_file():
            raise NotFoundError("the bundle was withdrawn", where=str(self.path), mend="open the bundle that CURRENT names")

    def check(self, name: str) -> None:
        """Compare every block of a file with its hash.

        Raises:
            CorruptError: names the file.
            NotFoundError: the whole bundle is gone since it was opened.
        """
        file, path, size = self.files[name], self.path / name, 0
        if path.is_file() and path.stat().st_size == file.bytes:
            with path.open("rb") as stream:
                for wanted in file.blocks:
                    block = stream.read(self.block_bytes)
                    size += len(block)
                    if hashlib.sha256(block).hexdigest() != wanted:
                        break
                else:
                    if size == file.bytes:
                        return
        self.there()
        raise CorruptError("a file is not what the manifest says", where=str(path), mend=MEND)


def model_files(llm: Mapping[str, Any]) -> tuple[str, ...]:
    """Files that are the model's, of a bundle whose manifest says ``llm``."""
    return (*MODEL, *BRIDGE) if llm.get("bridge") else MODEL


def chain(path: Path) -> Iterator[Manifest]:
    """The manifests of a bundle, of its base, of that one's base and so on; newest first.

    Raises:
        NotFoundError, CorruptError: as ``Manifest.read``; or a base that is not the one its delta was made for.
    """
    manifest = Manifest.read(path)
    yield manifest
    for _ in range(MOST_LAYERS):
        if manifest.base is None:
            return
        name, bundle_id, _ = manifest.base
        try:
            base = Manifest.read(manifest.path.parent / name)
        except NotFoundError as error:
            raise NotFoundError(f"the base {name} of a delta bundle is not there", where=str(manifest.path), mend=MEND) from error
        if base.bundle_id != bundle_id or base.data["states"]["spec"] != manifest.data["states"]["spec"]:
            raise CorruptError(f"the base {name} is not the one this delta was made for", where=str(manifest.path), mend=MEND)
        manifest = base
        yield manifest
    raise CorruptError(f"a chain of more than {MOST_LAYERS} bundles", where=str(path), mend="tapstate bundle --full")


def named(directory: Path) -> Path:
    """The bundle that ``directory`` is, or that its ``CURRENT`` names.

    Raises:
        CorruptError: ``CURRENT`` holds no bundle's name.
    """
    pointer = directory / "CURRENT"
    if not pointer.is_file():
        return directory
    name = pointer.read_bytes()[:200].decode(errors="replace").strip()
    if not is_name(name):
        raise CorruptError(f"CURRENT names {name!r:.60}, which no bundle is called", where=str(pointer), mend=MEND)
    return directory / name


def erased_tag(salt: str, user: str) -> bytes:
    """What ``erased.arrow`` holds of an erased user: 16 bytes, from which their key cannot be told."""
    return hashlib.sha256(bytes.fromhex(salt) + user.encode()).digest()[:16]


def is_name(text: str) -> bool:
    """Whether a bundle can be called that: no path, nothing hidden."""
    return _NAME.fullmatch(text) is not None


def _insist(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _matched(pattern: re.Pattern[str], text: Any) -> str:
    _insist(isinstance(text, str) and pattern.fullmatch(text) is not None, f"{text!r:.60}")
    return str(text)


def _count(number: Any, least: int = 0, most: int = 1 << 60) -> int:
    _insist(type(number) is int and least <= number <= most, f"{number!r:.60} where a number from {least} to {most} belongs")
    return int(number)
