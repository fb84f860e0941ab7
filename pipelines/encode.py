"""Encode: every distinct text of new events gets its vector, once per encoder, ever.

Shards are ranges of text keys. A shard looks its keys up first and reads only the texts that are new; its vectors are staged, and the
caller makes those of all shards part of the cache at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import polars as pl

from pipelines.encoder import KnownEncoder
from pipelines.engines import Engine
from pipelines.meter import Meter, Silent
from pipelines.plan import TEXT_KEYS, text_shards
from pipelines.stages import Manifest, Stage, figures
from schemas.config import EncoderConfig
from schemas.errors import CompatibilityError
from schemas.records import Shard, StageFigures
from store.embeddings import Embeddings
from store.events import EventLog
from store.home import Home


@dataclass(frozen=True)
class TextsEncoded(Manifest):
    """Manifest of one shard: its distinct texts, newly encoded and found in the cache, and the staged rows."""

    texts: int
    hits: int
    fragments: list[str]


@dataclass(frozen=True)
class Encoded:
    """The stage's sums."""

    texts: int
    hits: int
    figures: StageFigures


@dataclass(frozen=True)
class TextShards:
    """Encodes shards of the texts of ingests ``after + 1 … until``.

    Args:
        since: the cache's mark.
    """

    log: EventLog
    encoder: KnownEncoder
    after: int
    until: int
    since: int
    meter: Meter = field(default_factory=Silent)

    def __reduce__(self) -> tuple[object, ...]:
        return _opened, (self.log.home.uri, self.encoder.config, self.encoder.fingerprint, self.after, self.until, self.since)

    def __call__(self, shard: Shard) -> TextsEncoded:
        """Encode what of one shard the cache does not hold, and stage it."""
        cache = Embeddings(self.log.home, self.encoder.fingerprint, self.encoder.dim)
        keys = self._distinct(shard)
        fresh = keys.filter(~pl.Series(cache.known(keys.to_numpy()), dtype=pl.Boolean)).sort()
        if not len(fresh):
            return TextsEncoded(0, len(keys), [])
        self.meter.start("encode", len(fresh), "texts")
        texts = self._texts(shard, fresh)
        vectors = self.encoder.encode(texts["text"].to_list(), lambda done: self.meter.advance("encode", done))
        return TextsEncoded(len(fresh), len(keys) - len(fresh), cache.stage(texts["key"].to_numpy(), vectors, self.since))

    def _distinct(self, shard: Shard) -> pl.Series:
        parts = [
            batch[key].drop_nulls().unique()
            for key in TEXT_KEYS
            for batch in self.log.scan([key], after=self.after, until=self.until, low=shard.low, high=shard.high, key=key)
        ]
        return pl.concat([pl.Series([], dtype=pl.Int64), *(part.alias("") for part in parts)]).unique()

    def _texts(self, shard: Shard, fresh: pl.Series) -> pl.DataFrame:
        """(key, text) of the fresh keys, sorted by key."""
        parts = [
            batch.select(key=pl.col(key), text=pl.col(text)).filter(pl.col("key").is_in(fresh.implode())).unique("key", keep="any")
            for text, key in zip(("text", "target"), TEXT_KEYS, strict=True)
            for batch in self.log.scan([text, key], after=self.after, until=self.until, low=shard.low, high=shard.high, key=key)
        ]
        return pl.concat(parts).unique("key", keep="first", maintain_order=True).sort("key")


@lru_cache(maxsize=1)
def _opened(uri: str, config: EncoderConfig, fingerprint: str, after: int, until: int, since: int) -> TextShards:
    """The same in a worker, which has its own home and encoder."""
    home = Home(uri)
    encoder = KnownEncoder(home, config)
    if encoder.fingerprint != fingerprint:
        raise CompatibilityError(
            f"a worker has encoder {encoder.fingerprint[:12]}, the plan's is {fingerprint[:12]}",
            where=config.model or "the bundled MiniLM",
            mend="give every worker the same model files and packages (docs/cluster.md)",
        )
    return TextShards(EventLog(home), encoder, after, until, since)


def run_encode(work: TextShards, folder: str, shards: Sequence[Shard], engine: Engine, retries: int) -> Encoded:
    """Encode all shards of the plan in ``folder``, then commit their vectors.

    Raises:
        ShardError: a shard kept failing.
        ConflictError: an erasure came since the mark.
    """
    home, meter = work.log.home, work.meter
    meter.start("encode", 0, "texts")
    done = Stage(home, folder, "encode", TextsEncoded, work).run(shards, engine, retries)
    Embeddings(home, work.encoder.fingerprint, work.encoder.dim).commit([f for manifest in done for f in manifest.fragments])
    meter.finish("encode")
    return Encoded(sum(m.texts for m in done), sum(m.hits for m in done), figures(done))


def encode_events(log: EventLog, encoder: KnownEncoder, meter: Meter, *, until: int) -> None:
    """Encode the texts and targets of all events up to ingest ``until``, in this process and without a refresh's plan."""
    cache = Embeddings(log.home, encoder.fingerprint, encoder.dim)
    meter.start("encode", 0, "texts")
    for shard in text_shards(log, after=0, until=until, size=log.home.config.refresh.shard_events):
        made = TextShards(log, encoder, 0, until, cache.mark(), meter)(shard)
        cache.commit(made.fragments)
    meter.finish("encode")
