"""Encode: every distinct text of new events gets its vector, once per encoder, ever."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from encoders.text import TextEncoder
from pipelines.engines import Engine
from pipelines.meter import Meter
from pipelines.plan import shards_by
from schemas.records import Shard
from store.embeddings import Embeddings
from store.events import EventLog


@dataclass(frozen=True)
class Encoded:
    """Distinct texts of a shard: newly encoded, and found in the cache."""

    texts: int
    hits: int


def encode_events(log: EventLog, encoder: TextEncoder, engine: Engine, meter: Meter, *, after: int, until: int) -> Encoded:
    """Encode the texts and targets of ingests ``after + 1 … until`` that the cache does not hold."""
    cache = Embeddings(log.home, encoder.fingerprint, encoder.dim)
    shards = shards_by(log, ["text_key", "target_key"], after=after, until=until, size=2 * log.home.config.refresh.shard_events)
    meter.start("encode", 0, "texts")

    def encode_shard(shard: Shard) -> Encoded:
        since = cache.mark()
        texts = _texts(log, shard, after, until)
        keys = texts["key"].to_numpy()
        fresh = texts.filter(pl.Series(~cache.known(keys)))
        meter.start("encode", len(fresh), "texts")
        if len(fresh):
            vectors = encoder.encode(fresh["text"].to_list(), lambda done: meter.advance("encode", done))
            cache.append(fresh["key"].to_numpy().astype(np.int64), vectors, since)
        return Encoded(len(fresh), len(texts) - len(fresh))

    manifests = list(engine.map(encode_shard, shards))
    meter.finish("encode")
    return Encoded(sum(m.texts for m in manifests), sum(m.hits for m in manifests))


def _texts(log: EventLog, shard: Shard, after: int, until: int) -> pl.DataFrame:
    """Distinct (key, text) of the shard's texts and targets, sorted by key."""
    parts = [
        batch.select(key=pl.col(key), text=pl.col(text)).drop_nulls().unique("key", keep="any")
        for text, key in (("text", "text_key"), ("target", "target_key"))
        for batch in log.scan([text, key], after=after, until=until, low=shard.low, high=shard.high, key=key)
    ]
    if not parts:
        return pl.DataFrame(schema={"key": pl.Int64, "text": pl.String})
    return pl.concat(parts).unique("key", keep="first", maintain_order=True).sort("key")
