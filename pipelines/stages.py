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
from schemas.errors import EngineError, NotFoundError, ShardError, TapstateError
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
        if self.home.objects.get(f"{self.folder}/{self._name(shard)}") is not None:
            return
        started = time.perf_counter()
        try:
            made = self.work(shard)
        except Exception as error:
            reason = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc(limit=-3)}
            self.home.objects.put(f"{self.folder}/{self.name}-{shard.index}.failed", json.dumps(reason).encode())
            return
        told = {**vars(made), "seconds": round(time.perf_counter() - started, 4)}
        self.home.objects.create(f"{self.folder}/{self._name(shard)}", json.dumps(told).encode())

    def run(self, shards: Sequence[Shard], engine: Engine, retries: int) -> list[M]:
        """Every shard's manifest, in the shards' order; what failed is tried again ``retries`` times.

        Raises:
            ShardError: a shard kept failing; names it and the reason. What the others finished stays.
            EngineError: the engine kept giving up.
            NotFoundError: the plan is gone: whoever finished it swept it.
        """
        broken: EngineError | None = None
        for _ in range(1 + retries):
            done = set(self.home.objects.names(self.folder))
            left = [shard for shard in shards if self._name(shard) not in done]
            if not left:
                break
            try:
                engine.each(self, left)
            except EngineError as error:
                broken = error
        found = [self.home.objects.get(f"{self.folder}/{self._name(shard)}") for shard in shards]
        if None in found:
            raise self._complaint([shard for shard, data in zip(shards, found, strict=True) if data is None], broken)
        return [self.manifest(**json.loads(data)) for data in found if data]

    def _name(self, shard: Shard) -> str:
        return f"{self.name}-{shard.index}.json"

    def _complaint(self, missing: Sequence[Shard], broken: EngineError | None) -> TapstateError:
        for shard in missing:
            data = self.home.objects.get(f"{self.folder}/{self.name}-{shard.index}.failed")
            if data:
                first = json.loads(data)
                return ShardError(
                    f"{len(missing)} {self.name} shards failed, the first number {shard.index} "
                    f"(keys {shard.low} to {shard.high}): {first['error']}",
                    where=f"{self.home.uri}/{self.folder}",
                    mend="mend the cause (the trace is there), then tapstate refresh: finished shards are not done again",
                )
        return broken or NotFoundError("the plan is gone; another refresh finished it", where=self.folder, mend="tapstate versions")
