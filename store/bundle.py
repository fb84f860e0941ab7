"""Writing a bundle: a version's states and a head, as files that a serving team reads with no code of ours.

Built in a directory aside, then renamed (or uploaded, the manifest last); ``CURRENT`` is swapped when all is there.
"""

import ctypes
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.keys import content_hash, user_hash
from schemas.records import VersionRecord
from schemas.states import StateBatch, StateSpec
from store.home import Home
from store.states import States

FORMAT = 1
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
    directory: Path, states: States, spec: StateSpec, version: VersionRecord, progress: Callable[[int], None] | None = None
) -> list[dict[str, Any]]:
    """``states/*.arrow`` below ``directory``, one record batch a file, sorted by key over all files; the files' key ranges.

    Raises:
        OSError: the disk is full or read-only.
    """
    (directory / "states").mkdir(parents=True)
    columns = ["user_id", *spec.schema().names]
    files = []
    for index, (low, high) in enumerate(key_ranges(max(1, -(-version.users // FILE_USERS)))):
        rows = states.read(version.runs, columns, low=low, high=high)
        hashes = np.array([user_hash(user) for user in rows.column("user_id").to_pylist()], np.int64).reshape(-1, 2)
        body = StateBatch.from_arrow(rows, spec).to_arrow(spec, bundle=True)
        table = pa.table({"key": hashes[:, 0], "check": hashes[:, 1]}).cast(_KEYS)
        for field in body.schema:
            table = table.append_column(field, body.column(field.name))
        name = f"states/{index:05}.arrow"
        with pa.OSFile(str(directory / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            # One batch a file, even when empty: a reader finds the keys of a file as one array.
            writer.write_batch(table.combine_chunks().to_batches()[0] if rows.num_rows else _empty(table.schema))
        files.append({"name": name, "users": rows.num_rows, "low": low, "high": high})
        if progress:
            progress(rows.num_rows)
    return files


_KEYS = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("check", pa.int64(), nullable=False)])


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


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

    def workplace(self) -> Path:
        """An empty directory to build a bundle in; on the home's own disk when it is local, so that a rename can publish it."""
        if self.home.objects.remote:
            return Path(tempfile.mkdtemp(prefix="tapstate-bundle-"))
        Path(self.uri).mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".building-", dir=self.uri))

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
            shutil.rmtree(directory)
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
