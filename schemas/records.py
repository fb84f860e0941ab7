"""Records: small numbered JSON documents that make appended rows count.

A record is written put-if-absent under the next free number, so two writers can never both be number n. The
sequence of records is the history: who, when, why, with which code.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.config import EncoderConfig

FORMAT = 1


class Record(BaseModel):
    """What every record carries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created_at: datetime
    created_by: str
    code: str = Field(description="version of tapstate that wrote it")


class HomeRecord(Record):
    """``home.json``: makes a directory or prefix a home."""

    format: int = FORMAT
    home_id: str


class NumberedRecord(Record):
    """A record of a ledger; it says its own number."""

    number: int


class IngestRecord(NumberedRecord):
    """``ingests/<n>.json``: makes the rows tagged ``run`` in events and rejects count."""

    run: int
    sources: tuple[str, ...]
    read: int
    accepted: int
    duplicate: int
    corrected: int
    rejected: int
    known_at_max: datetime | None = None


class CheckResult(BaseModel):
    """One figure of one check and the line it must not cross."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    limit: float
    passed: bool


class StageFigures(BaseModel):
    """What the shards of one stage took together; on several workers more than the clock's time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int
    seconds: float
    longest: float


class VersionRecord(NumberedRecord):
    """``versions/<n>.json``: one immutable set of all users' states.

    A user's state at this version is their latest row among ``runs`` (oldest first) in the aggregator's table.
    """

    aggregator: str
    encoder: str
    personalizer: str
    trained: bool
    parent: int | None
    runs: tuple[int, ...]
    last_ingest: int
    as_of: datetime
    users: int
    users_changed: int
    events: int
    events_new: int
    texts_encoded: int
    cache_hits: int
    seconds: float
    stages: dict[str, StageFigures] = {}
    checks: tuple[CheckResult, ...] = ()


class AliasRecord(NumberedRecord):
    """``aliases/<name>/<n>.json``: the n-th move of an alias; ``expected`` is the version it replaced."""

    name: str
    version: int
    expected: int | None
    reason: str
    rollback: bool = False


class LineRecord(NumberedRecord):
    """``lines/<n>.json``: makes an aggregator's line the newest one; ``encoder`` is how its texts are encoded."""

    aggregator: str
    encoder: EncoderConfig
    reason: str


class Shard(BaseModel):
    """A range of keys, ``low <= key <= high``, and the events (or texts) it should hold: one unit of work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    low: int
    high: int
    events: int


class Plan(BaseModel):
    """What a refresh will do, stored before it starts; a killed run is run again with it.

    Attributes:
        run: tag of the states it writes.
        encoder: the text encoder's fingerprint; ``text_encoder`` is what a worker loads it from.
        shards: of users, by user key.
        texts: of texts and targets, by text key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: int
    kind: Literal["update", "rebuild"]
    aggregator: str
    parent: int | None
    first_ingest: int
    last_ingest: int
    encoder: str
    text_encoder: EncoderConfig
    shards: tuple[Shard, ...]
    texts: tuple[Shard, ...]

    @property
    def folder(self) -> str:
        """Where the plan and its shards' manifests are; two refreshes that would do the same meet there."""
        return f"plans/{self.aggregator[:16]}-{self.parent or 0}-{self.first_ingest}-{self.last_ingest}-{self.kind}"
