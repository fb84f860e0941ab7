"""Records: small numbered JSON documents that make appended rows count.

A record is written put-if-absent under the next free number, so two writers can never both be number n. The
sequence of records is the history: who, when, why, with which code.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.config import EncoderConfig

FORMAT = 1
#: Text of a line: a terminal obeys control characters.
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f]{1,400}$"


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


class PullRecord(Record):
    """``pulls/<moment>-<random>.json``: somebody fetched a bundle from the home's shelf, and bundles that it stands on.

    ``store.pull`` writes it without pydantic. ``fetched`` are names, newest first, ``bytes`` those of all of them.
    """

    created_by: str = Field(pattern=_PLAIN)
    code: str = Field(pattern=_PLAIN)
    bundle: str = Field(pattern=_PLAIN)
    bundle_id: str = Field(pattern="^[0-9a-f]{64}$")
    version: int
    fetched: tuple[Annotated[str, Field(pattern=_PLAIN)], ...]
    bytes: int


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

    # A figure can be infinite, and JSON's null would make the record unreadable.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

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

    A user's state at this version is their latest row among ``runs`` (oldest first) in the aggregator's table. ``settings`` is what the
    configuration said otherwise than its defaults (``schemas.config.settings``); None in records of release 0.1.0.
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
    settings: dict[str, Any] | None = None
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


class ErasureRecord(NumberedRecord):
    """``erasures/<n>.json``: from now on users or events are kept out, or (``lift``) let in again.

    Attributes:
        users: keyed tags of users (``store.pseudonyms``); ids cannot be read from them.
        events: keyed tags of single events.
        bundle_tags: the users as bundles tell them to be erased (``store.bundle.BundleShelf.tags``).
        shrunk: by version number, how many users and events fewer the version has than its record says.
    """

    kind: Literal["erase", "lift"]
    users: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    bundle_tags: tuple[str, ...] = ()
    shrunk: dict[int, tuple[int, int]] = {}
    reason: str


class Found(BaseModel):
    """What of some users one place holds; counts alone.

    Attributes:
        what: the table, bundle or file.
        rows: rows, or occurrences in a file.
        detail: what will be done, or was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: str
    rows: int
    action: str


class ProofRecord(BaseModel):
    """How the home was searched after an erasure.

    Attributes:
        files, decoded, bytes: files searched, those of them decoded too, bytes read raw.
        needles: ids, keys, texts and vectors searched for.
        hits: places where one was found; an erasure with any is not done.
        mentions: texts of other users in which the id occurs; theirs, so they stay.
        models: model files that hold a text of theirs, as a tokenizer's vocabulary can; a checkpoint cannot be made to forget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: int
    decoded: int
    bytes: int
    needles: int
    hits: tuple[str, ...]
    mentions: int
    models: tuple[str, ...] = ()


class ReceiptRecord(NumberedRecord):
    """``receipts/<n>.json``: erasure n is done; what was removed, how that was proven, and what cannot be undone.

    Attributes:
        users, events: pseudonyms.
        removed: what each place held and holds no more.
        finishes: earlier erasures that were cut off and are done with this one.
        cannot_undo: checkpoints trained on the events, bundles that may have been pulled.
    """

    users: tuple[str, ...]
    events: tuple[str, ...]
    removed: tuple[Found, ...]
    finishes: tuple[int, ...]
    proof: ProofRecord
    cannot_undo: tuple[str, ...]
    seconds: float


class RetiredRecord(NumberedRecord):
    """``retired/<n>.json``: version n is not to be read again; its superseded rows may be folded away."""

    reason: str


class LeaseRecord(NumberedRecord):
    """``leases/<name>/<n>.json``: who works on what, until when. A renewal and a takeover are the next number.

    Attributes:
        taken_at: when its holder took it; None of leases from before that was kept.
    """

    token: str
    work: str
    place: str = Field(description="machine, boot and process-id namespace: where ``pid`` means something")
    pid: int
    started: str = Field(description="when that process started, in its system's own words; process ids are used again")
    expires_at: datetime
    taken_at: datetime | None = None


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
        erasure: the last one when it was made. Rows staged before an erasure may be of the erased: a plan is of one state of the
            denylist, and never taken up under another.
        encoder: the text encoder's fingerprint.
        states_since, texts_since: marks of the tables of states and vectors, taken before anything was read (``Tables.mark``).
        shards: of users, by user key.
        texts: of texts and targets, by text key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: int
    kind: Literal["update", "rebuild"]
    erasure: int = 0
    aggregator: str
    parent: int | None
    first_ingest: int
    last_ingest: int
    encoder: str
    states_since: int = 0
    texts_since: int = 0
    shards: tuple[Shard, ...]
    texts: tuple[Shard, ...]

    @property
    def folder(self) -> str:
        """Where the plan and its shards' manifests are; two refreshes that would do the same meet there."""
        span = f"{self.parent or 0}-{self.first_ingest}-{self.last_ingest}"
        return f"plans/{self.aggregator[:16]}-{span}-{self.kind}-{self.erasure}"
