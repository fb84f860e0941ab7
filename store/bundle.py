"""Writing a bundle: a version's states and a head, as files that a serving team reads with no code of ours.

Built in a directory aside, then renamed (or uploaded, the manifest last); ``CURRENT`` is swapped when all is there.
A delta bundle holds the users that changed since its base, and names it; a reader looks there for everyone else.
"""

import ctypes
import hashlib
import hmac
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.keys import content_hash, user_hash
from schemas.states import StateBatch, StateSpec
from store.home import Home
from store.manifest import ERASED, FORMAT, INDEX, erased_tag
from store.packing import pack, records
from store.pseudonyms import Pseudonyms
from store.scratch import scratch
from store.states import States

#: Keys and checks of users, int64 ``[n, 2]``.
Hashes = npt.NDArray[np.int64]

#: Users of one states file, about, and bytes of one hashed block.
FILE_USERS = 32_768
BLOCK = 1 << 22
#: Of Linux' renameat2.
AT_FDCWD, RENAME_EXCHANGE = -100, 2


def key_ranges(parts: int) -> Iterator[tuple[int, int]]:
    """``parts`` ranges that cover all int64 user keys, ascending; hashes fill them evenly."""
    edges = [-(2**63) + (2**64 * i) // parts for i in range(parts + 1)]
    for low, high in itertools.pairwise(edges):
        yield low, high - 1


def write_states(
    directory: Path,
    states: States,
    spec: StateSpec,
    packed: StateSpec,
    runs: Sequence[int],
    expected: int,
    erased: Sequence[bytes],
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """The states of a version's ``runs`` below ``directory``: all of them for a full bundle, those since its base for a delta.

    Args:
        packed: the bundle's columns.
        expected: users, about; says how many files there will be.
        erased: tags of the erased users (``BundleShelf.erased``).

    Returns:
        name and users of each file.

    Raises:
        OSError: the disk is full or read-only.
    """
    columns, vanished = ["user_id", "event_count", *spec.schema().names], []

    def chunks() -> Iterator[tuple[Hashes, StateBatch]]:
        for low, high in key_ranges(max(1, -(-expected // FILE_USERS))):
            rows = states.read(runs, columns, low=low, high=high, gone=True)
            there = np.asarray(rows.column("event_count")) > 0
            hashes = user_hashes(rows.column("user_id").to_pylist())
            vanished.append(hashes[~there])
            # Filtering copies the rows, list by list; most often there is nothing to drop.
            rows = rows if there.all() else rows.filter(pa.array(there))
            yield hashes[there], pack(StateBatch.from_arrow(rows, spec), packed)
            if progress:
                progress(rows.num_rows)

    files = write_layer(directory, chunks(), packed)
    write_gone(directory, np.concatenate(vanished), erased)
    return files


def write_layer(directory: Path, chunks: Iterable[tuple[Hashes, StateBatch]], packed: StateSpec) -> list[dict[str, Any]]:
    """``states/NNNNN.arrow``, one a chunk, and ``index.arrow`` with the keys of all of them; name and users of each file.

    Args:
        chunks: keys and checks int64 ``[n, 2]`` and packed states of n users; keys ascending over all chunks.
    """
    (directory / "states").mkdir(parents=True)
    files, keys, checks = [], directory / "keys.tmp", directory / "checks.tmp"
    with keys.open("wb") as key_file, checks.open("wb") as check_file:
        for number, (hashes, states) in enumerate(chunks):
            # One batch a file, even when empty: a reader finds the records of a file as one array.
            name = f"states/{number:05}.arrow"
            write_batch(directory / name, records(hashes[:, 0], states, packed))
            key_file.write(hashes[:, 0].astype("<i8").tobytes())
            check_file.write(hashes[:, 1].astype("<i8").tobytes())
            files.append({"name": name, "users": len(hashes)})
    # One array of keys over all files, built on disk: it may not fit the memory.
    columns = [pa.array(np.memmap(path, "<i8", "r") if path.stat().st_size else np.zeros(0, np.int64)) for path in (keys, checks)]
    write_batch(directory / "index.arrow", pa.RecordBatch.from_arrays(columns, schema=INDEX))
    keys.unlink()
    checks.unlink()
    return files


def write_gone(directory: Path, vanished: Hashes, erased: Iterable[bytes]) -> None:
    """``gone.arrow``: users that a reader must not look for in a base; ``erased.arrow``: tags of those who were erased. Both sorted."""
    vanished = np.unique(vanished.reshape(-1, 2), axis=0)
    write_batch(directory / "gone.arrow", pa.RecordBatch.from_arrays([pa.array(vanished[:, 0]), pa.array(vanished[:, 1])], schema=INDEX))
    write_batch(directory / "erased.arrow", pa.RecordBatch.from_arrays([pa.array(sorted(set(erased)), ERASED[0].type)], schema=ERASED))


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """A file as all of a bundle's are: Arrow IPC, uncompressed, one batch."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def user_hashes(users: Iterable[str]) -> Hashes:
    """Keys and checks of the users, int64 ``[n, 2]``."""
    return np.array([user_hash(user) for user in users], np.int64).reshape(-1, 2)


def seal(directory: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Hash every file of ``directory`` by blocks and write ``manifest.json``; returns the manifest."""
    files = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        blocks = []
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                blocks.append(hashlib.sha256(block).hexdigest())
        files[path.relative_to(directory).as_posix()] = {"bytes": path.stat().st_size, "sha256": blocks}
    sealed = {"format": FORMAT, "block_bytes": BLOCK, **manifest, "files": files}
    sealed["bundle_id"] = content_hash({k: v for k, v in sealed.items() if k != "created_at"})
    (directory / "manifest.json").write_text(json.dumps(sealed, indent=1))
    return sealed


class BundleShelf:
    """Bundles of a home, ``<home>/bundles/<name>/`` with ``CURRENT`` naming the one to serve.

    Args:
        home: the home.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.uri = f"{home.uri}/bundles"

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """An empty directory to build a bundle in; on the home's own disk when it is local, so that a rename can publish it."""
        if self.home.objects.remote:
            with scratch() as directory:
                yield directory
            return
        Path(self.uri).mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=".building-", dir=self.uri))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def current(self) -> dict[str, Any] | None:
        """The manifest of the bundle that ``CURRENT`` names, with its ``name``; None if there is none that can be read."""
        name = self.home.objects.get("bundles/CURRENT")
        found = self.home.objects.get(f"bundles/{name.decode().strip()}/manifest.json") if name else None
        try:
            return {**json.loads(found), "name": name.decode().strip()} if found and name else None
        except ValueError:
            return None

    @cached_property
    def salt(self) -> str:
        """Hex; the erased users' tags are made with it, so that they tell nothing beside this home's bundles."""
        return hmac.digest(Pseudonyms(self.home).key, b"bundles", "sha256").hex()

    def tags(self, users: Iterable[str]) -> list[str]:
        """What bundles call erased users, hex."""
        return [erased_tag(self.salt, user).hex() for user in users]

    def erased(self) -> list[bytes]:
        """Tags of every user who is erased and was not let in again."""
        tags: set[str] = set()
        for record in self.home.erasures.all():
            tags = tags | set(record.bundle_tags) if record.kind == "erase" else tags - set(record.bundle_tags)
        return [bytes.fromhex(tag) for tag in sorted(tags)]

    def publish(self, directory: Path, name: str, *, current: bool = True) -> str:
        """Move a finished bundle to its name and, unless it is for another LLM, let ``CURRENT`` name it; returns its URI."""
        self.place(directory, name)
        if current:
            self.home.objects.put("bundles/CURRENT", name.encode())
        return f"{self.uri}/{name}"

    def place(self, directory: Path, name: str) -> None:
        """Move a finished bundle to its name."""
        if self.home.objects.remote:
            paths = sorted((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.name == "manifest.json")
            for path in paths:
                self.home.objects.put(f"bundles/{name}/{path.relative_to(directory).as_posix()}", path.read_bytes())
            return
        directory.chmod(0o755)
        _swap(directory, Path(self.uri) / name)

    def remove(self, name: str) -> None:
        """Delete a bundle; an open reader keeps its mapping."""
        if self.home.objects.remote:
            self.home.objects.delete(f"bundles/{name}")
        else:
            shutil.rmtree(Path(self.uri) / name, ignore_errors=True)


def _swap(directory: Path, target: Path) -> None:
    """Give ``directory`` the name ``target``; at no moment is the name without a whole bundle."""
    try:
        directory.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # The same version and head again: an open reader keeps its mapping of the old files.
        _exchange(directory, target)
        shutil.rmtree(directory, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step where the system can (Linux), else in two."""
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameat2", None)
    if swap is None or swap(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) != 0:
        aside = one.with_name(f"{one.name}.old")
        other.rename(aside)
        one.rename(other)
        aside.rename(one)
