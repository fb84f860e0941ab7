"""Withdrawing users from the bundles of a home: a bundle that holds one is written anew without them, under another name and id.

The new one lies there, and ``CURRENT`` names it, before the old one goes; who pulled or opened the old one still has it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import CorruptError
from store.bundle import BundleShelf, seal, write_batch
from store.home import Home
from store.manifest import ERASED, FORMAT, model_files

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
        """Published bundles that hold one of the users or stand on one that does, those that others stand on first."""
        manifests = {name: m for name in self.home.objects.names("bundles") if (m := self._manifest(name)) is not None}
        found: list[Shelved] = []
        for name, manifest in sorted(manifests.items(), key=lambda item: (item[1].get("layers", 1), item[0])):
            users, base = self._count(name, manifest), manifest.get("base")
            # An erasure that was cut off may have taken the base away already.
            uprooted = base and (base["name"] in {b.name for b in found} or not self._there(base, manifests))
            if users or uprooted:
                found.append(Shelved(name, manifest["bundle_id"], manifest["version"], users))
        return found

    def withdraw(self, number: int) -> None:
        """Write every affected bundle without the users, let ``CURRENT`` name the new one where it named the old, then remove the old.

        One of an earlier format, which no client of this release opens, goes without another in its place.

        Args:
            number: the erasure's, which becomes part of the names.
        """
        objects, affected = self.home.objects, self.affected()
        for bundle in affected:
            manifest, new = self._manifest(bundle.name), renamed(bundle.name, number)
            if manifest is None or manifest["format"] != FORMAT:
                continue
            if objects.get(f"bundles/{new}/manifest.json") is None:
                with self.shelf.workplace() as place:
                    self._rewrite(bundle.name, manifest, place, number)
                    self.shelf.place(place, new)
            if (objects.get(f"bundles/{CURRENT}") or b"").decode().strip() == bundle.name:
                objects.put(f"bundles/{CURRENT}", new.encode())
        for bundle in reversed(affected):
            self.shelf.remove(bundle.name)

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

    def _there(self, base: dict[str, Any], manifests: dict[str, dict[str, Any]]) -> bool:
        return base["name"] in manifests and manifests[base["name"]]["bundle_id"] == base["bundle_id"]

    def _doomed(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        out: npt.NDArray[np.bool_] = np.isin(_pairs(batch.column("key").to_numpy(), batch.column("check").to_numpy()), self._pairs)
        return out

    def _batch(self, name: str, file: str) -> pa.RecordBatch:
        data = self.home.objects.get(f"bundles/{name}/{file}")
        if data is None:
            raise CorruptError("a file of the bundle is missing", where=f"{self.shelf.uri}/{name}/{file}", mend="delete that bundle")
        return pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)

    def _count(self, name: str, manifest: dict[str, Any]) -> int:
        """How many of the users a bundle's own files name."""
        old = manifest["format"] != FORMAT
        files = [file["name"] for file in manifest["states"]["files"]] if old else ["index.arrow", "gone.arrow"]
        return sum(int(self._doomed(self._batch(name, file)).sum()) for file in files)

    def _visible(self, name: str, manifest: dict[str, Any]) -> set[bytes]:
        """Which of the users a reader of the bundle would find, in it or in its bases."""
        base = manifest["base"]
        below = self._manifest(base["name"]) if base else None
        found = self._visible(base["name"], below) if base and below else set()
        gone, own = self._batch(name, "gone.arrow"), self._batch(name, "index.arrow")
        mine = [_pairs(b.column("key").to_numpy(), b.column("check").to_numpy())[self._doomed(b)] for b in (gone, own)]
        return (found - {pair.tobytes() for pair in mine[0]}) | {pair.tobytes() for pair in mine[1]}

    def _rewrite(self, name: str, manifest: dict[str, Any], place: Path, number: int) -> dict[str, Any]:
        (place / "states").mkdir()
        index, gone = self._batch(name, "index.arrow"), self._batch(name, "gone.arrow")
        doomed = self._doomed(index)
        files, start = [], 0
        for file in manifest["states"]["files"]:
            end = start + file["users"]
            kept = self._batch(name, file["name"]).filter(pa.array(~doomed[start:end]))
            write_batch(place / file["name"], kept)
            files.append({**file, "users": kept.num_rows})
            start = end
        write_batch(place / "index.arrow", index.filter(pa.array(~doomed)))
        write_batch(place / "gone.arrow", gone.filter(pa.array(~self._doomed(gone))))
        tags = pa.array(sorted(self.shelf.erased()), ERASED[0].type)
        write_batch(place / "erased.arrow", pa.RecordBatch.from_arrays([tags], schema=ERASED))
        golden = json.loads(self.home.objects.get(f"bundles/{name}/golden.json") or b'{"cases": []}')
        # An expected answer for one of them would be theirs too; the rows of the others move up.
        before = np.cumsum(doomed)
        rows = [(case, case["row"]) for case in golden["cases"]]
        cases = [{**c, "row": r if r is None else r - int(before[r])} for c, r in rows if r is None or not doomed[r]]
        (place / "golden.json").write_text(json.dumps({**golden, "cases": cases}))
        for path in set(model_files(manifest["llm"])) & set(manifest["files"]):
            (place / path).write_bytes(self.home.objects.get(f"bundles/{name}/{path}") or b"")
        users, base = manifest["users"] - len(self._visible(name, manifest)), manifest["base"]
        rest = {key: value for key, value in manifest.items() if key not in ("format", "block_bytes", "files", "bundle_id")}
        changed = {"users": users, "base": self._rebased(base, number), "withdrawn": number}
        return seal(place, {**rest, **changed, "states": {**manifest["states"], "files": files}})

    def _rebased(self, base: dict[str, Any] | None, number: int) -> dict[str, Any] | None:
        """A base under the name and id that it has by now."""
        if base is None:
            return None
        new = self._manifest(renamed(base["name"], number))
        return {**base, "name": renamed(base["name"], number), "bundle_id": new["bundle_id"]} if new else base


def renamed(name: str, number: int) -> str:
    """What a bundle is called after erasure ``number``."""
    return f"{re.sub(r'-e[0-9]+$', '', name)}-e{number}"


def _pairs(keys: npt.NDArray[np.int64], checks: npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    """Key and check of each user as one 16-byte value."""
    both = np.stack([np.asarray(keys, np.int64), np.asarray(checks, np.int64)], axis=1)
    return np.ascontiguousarray(both).view("V16").reshape(-1)
