"""Stages of a plan: what an engine is given to call, and how its manifests come back.

A stage keeps each shard's manifest in the plan's folder, put-if-absent: the first complete one counts, wherever and however often the
shard ran. What a killed run finished is not done again. A shard that fails leaves its reason there, and the others go on.
"""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipelines.engines import Engine
from pipelines.memory import keep_freed
from schemas import errors
from schemas.errors import ConflictError, EngineError, ShardError, TapstateError
from schemas.records import Shard, StageFigures
from store.home import Home


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a shard tells of itself: plain values, few of them.

    Attributes:
        seconds: that the shard took.
    """

    seconds: float = 0.0


M = TypeVar("M", bound=Manifest)


def figures(manifests: Sequence[Manifest]) -> StageFigures:
    """What the shards of a stage took together."""
    seconds = [manifest.seconds for manifest in manifests]
    return StageFigures(shards=len(seconds), seconds=round(sum(seconds), 3), longest=max(seconds, default=0.0))


@dataclass(frozen=True)
class Stage(Generic[M]):
    """One stage of a plan. Its pickle is a few names: the copy in a worker opens home and models itself, once per process.

    Args:
        home: the home.
        folder: the plan's folder.
        name: the stage's name, in the names of its manifests.
        manifest: their type.
        work: computes one shard.
    """

    home: Home
    folder: str
    name: str
    manifest: type[M]
    work: Callable[[Shard], M]

    def __call__(self, shard: Shard) -> None:
        """Do one shard unless it is done; never raises for what is wrong with the shard."""
        path = f"{self.folder}/{self._name(shard)}"
        data = self.home.objects.get(path)
        if self._manifest(data):
            return
        if data is not None:
            self.home.objects.remove(path)
        keep_freed(self.home.config.refresh.shard_megabytes)
        started = time.perf_counter()
        try:
            made = self.work(shard)
        except Exception as error:
            self.home.objects.put(self._failed(shard), json.dumps(_reason(error)).encode())
            return
        told = {**vars(made), "seconds": round(time.perf_counter() - started, 4)}
        self.home.objects.create(path, json.dumps(told).encode())
        if self.home.objects.get(f"{self.folder}/plan.json") is None:
            # An erasure took the plan away meanwhile: nothing that names users may be left behind.
            self.home.objects.remove(path)

    def run(self, shards: Sequence[Shard], engine: Engine, retries: int, first_bad: Callable[[Shard], str] = lambda shard: "") -> list[M]:
        """Every shard's manifest, in the shards' order; what failed is tried again ``retries`` times.

        Args:
            first_bad: says what of a failed shard is to blame, "user key 7"; empty if nothing of it is.

        Raises:
            ShardError: a shard kept failing; names it, its first bad row and the reason. What the others finished stays.
            TapstateError: what the first of them failed of, where we raised it ourselves.
            EngineError: the engine kept giving up.
            ConflictError: the plan is gone: whoever finished it swept it.
        """
        made: dict[int, M] = {}
        broken: EngineError | None = None
        for _ in range(1 + retries):
            left = self._left(shards, made)
            if not left:
                break
            try:
                engine.each(self, left)
                broken = None
            except EngineError as error:
                broken = error
        if left := self._left(shards, made):
            raise self._complaint(left, len(shards), broken, first_bad)
        return [made[shard.index] for shard in shards]

    def _left(self, shards: Sequence[Shard], made: dict[int, M]) -> list[Shard]:
        """Shards that are to be done; the manifests of the others are put into ``made``."""
        there = set(self.home.objects.names(self.folder))
        for shard in shards:
            if shard.index not in made and self._name(shard) in there:
                manifest = self._manifest(self.home.objects.get(f"{self.folder}/{self._name(shard)}"))
                if manifest:
                    made[shard.index] = manifest
        return [shard for shard in shards if shard.index not in made]

    def _manifest(self, data: bytes | None) -> M | None:
        """None where none is there, or none that can be read: the shard is to be done."""
        try:
            return self.manifest(**json.loads(data)) if data else None
        except (ValueError, TypeError):
            return None

    def _name(self, shard: Shard) -> str:
        return f"{self.name}-{shard.index}.json"

    def _failed(self, shard: Shard) -> str:
        return f"{self.folder}/{self.name}-{shard.index}.failed"

    def _complaint(
        self, left: Sequence[Shard], shards: int, broken: EngineError | None, first_bad: Callable[[Shard], str]
    ) -> TapstateError:
        if broken:
            return broken
        for shard in left:
            data = self.home.objects.get(self._failed(shard))
            if not data:
                continue
            reason = json.loads(data)
            if "what" in reason:
                # The disk, the store or a rival: it says itself what mends it, and running again redoes the failed shards alone.
                kind: type[TapstateError] = getattr(errors, reason["kind"])
                return kind(reason["what"], where=reason["where"], mend=reason["mend"])
            row = f", first at {bad}" if (bad := first_bad(shard)) else ""
            return ShardError(
                f"{len(left)} of {shards} shards failed; shard {shard.index}{row}: {reason['error']}",
                where=f"{self.home.uri}/{self._failed(shard)}",
                mend="tapstate refresh does the failed shards again and keeps the others; "
                "a corrected or deleted event of that user mends bad rows",
            )
        return ConflictError("the plan is gone: another refresh finished it", where=self.folder, mend="tapstate refresh")


def _reason(error: Exception) -> dict[str, str]:
    """What a shard failed of, for whoever runs the stage and whoever looks into the plan's folder."""
    reason = {"kind": type(error).__name__, "error": repr(error), "trace": traceback.format_exc(limit=-3)}
    return reason | ({"what": error.what, "where": error.where, "mend": error.mend} if isinstance(error, TapstateError) else {})
