"""Withdrawing users from the bundles of a home: a bundle that holds one is written anew without them, under another name and id.

The new one lies there, and ``CURRENT`` names it, before the old one goes; who pulled or opened the old one still has it.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import CorruptError
from store.bundle import BundleShelf, seal
from store.home import Home

CURRENT = "CURRENT"


@dataclass(frozen=True)
class Shelved:
    """A bundle of the home and how many of some users it holds."""

    name: str
    bundle_id: str
    version: int
    users: int


class Withdrawal:
    """Some users to be taken out of bundles.

    Args:
        home: the home.
        keys: int64 ``[n]``, user keys (``schemas.keys.user_key``).
        checks: int64 ``[n]``, the second halves of the users' hashes.
    """

    def __init__(self, home: Home, keys: npt.NDArray[np.int64], checks: npt.NDArray[np.int64]) -> None:
        self.home, self.shelf = home, BundleShelf(home)
        self._pairs = np.sort(_pairs(keys, checks))

    def affected(self) -> list[Shelved]:
        """Published bundles that hold one of the users."""
        found = []
        for name in self.home.objects.names("bundles"):
            manifest = self._manifest(name)
            if manifest is not None and (users := self._count(name, manifest)):
                found.append(Shelved(name, manifest["bundle_id"], manifest["version"], users))
        return found

    def withdraw(self, bundle: Shelved, number: int) -> str:
        """Write the bundle without the users; returns the id of the one that takes its place.

        Args:
            number: the erasure's, which becomes part of the name.
        """
        old, new = bundle.name, f"{re.sub(r'-e[0-9]+$', '', bundle.name)}-e{number}"
        objects = self.home.objects
        if objects.get(f"bundles/{new}/manifest.json") is None:
            manifest = self._manifest(old)
            assert manifest is not None
            place = self.shelf.workplace()
            try:
                sealed = self._rewrite(old, manifest, place)
                self.shelf.place(place, new)
            except BaseException:
                shutil.rmtree(place, ignore_errors=True)
                raise
        else:
            sealed = self._manifest(new) or {}
        if (objects.get(f"bundles/{CURRENT}") or b"").decode().strip() == old:
            objects.put(f"bundles/{CURRENT}", new.encode())
        self.shelf.remove(old)
        return str(sealed["bundle_id"])

    def half_built(self) -> list[str]:
        """What publishers, living and dead, have beside the bundles."""
        if self.home.objects.remote:
            # A remote bundle is built elsewhere; without its manifest, written last, it is no bundle yet.
            return [name for name in self.home.objects.names("bundles") if name != CURRENT and self._manifest(name) is None]
        place = Path(self.shelf.uri)
        return [p.name for p in place.iterdir() if p.name.startswith((".building-", ".old-"))] if place.is_dir() else []

    def sweep(self, names: list[str]) -> None:
        """Remove what was half built before the states were fenced; a living publisher then begins again."""
        for name in names:
            self.shelf.remove(name)

    def _manifest(self, name: str) -> dict[str, Any] | None:
        data = self.home.objects.get(f"bundles/{name}/manifest.json") if name != CURRENT else None
        if data is None:
            return None
        try:
            manifest: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise CorruptError(
                f"manifest.json is not JSON: {error}", where=f"{self.shelf.uri}/{name}", mend="delete that bundle, then tapstate bundle"
            ) from error
        return manifest

    def _doomed(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        out: npt.NDArray[np.bool_] = np.isin(_pairs(batch.column("key").to_numpy(), batch.column("check").to_numpy()), self._pairs)
        return out

    def _parts(self, name: str, manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], pa.RecordBatch]]:
        for file in manifest["states"]["files"]:
            data = self.home.objects.get(f"bundles/{name}/{file['name']}")
            if data is not None:
                yield file, pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)

    def _count(self, name: str, manifest: dict[str, Any]) -> int:
        return sum(int(self._doomed(batch).sum()) for _, batch in self._parts(name, manifest))

    def _rewrite(self, name: str, manifest: dict[str, Any], place: Path) -> dict[str, Any]:
        (place / "states").mkdir()
        golden = json.loads(self.home.objects.get(f"bundles/{name}/golden.json") or b'{"cases": []}')
        files, cases = [], []
        for index, (file, batch) in enumerate(self._parts(name, manifest)):
            doomed = self._doomed(batch)
            kept = batch.filter(pa.array(~doomed))
            with pa.OSFile(str(place / file["name"]), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(kept)
            files.append({**file, "users": kept.num_rows})
            before = np.cumsum(doomed)
            # An expected answer for one of them would be theirs too; the rows of the others move up.
            cases += [
                {**c, "row": c["row"] - int(before[c["row"]])} for c in golden["cases"] if c["file"] == index and not doomed[c["row"]]
            ]
        for path in manifest["files"]:
            if not path.startswith("states/") and path != "golden.json":
                (place / path).write_bytes(self.home.objects.get(f"bundles/{name}/{path}") or b"")
        (place / "golden.json").write_text(json.dumps({**golden, "cases": cases}))
        rest = {key: value for key, value in manifest.items() if key not in ("format", "block_bytes", "files", "bundle_id")}
        states = {**manifest["states"], "files": files}
        return seal(place, {**rest, "users": sum(file["users"] for file in files), "states": states})


def _pairs(keys: npt.NDArray[np.int64], checks: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    """Key and check of each user as one 16-byte value."""
    both = np.stack([np.asarray(keys, np.int64), np.asarray(checks, np.int64)], axis=1)
    return np.ascontiguousarray(both).view("V16").reshape(-1)
