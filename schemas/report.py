"""A report: every figure that is told of a version, on its page and as JSON alike. No user's id is in it, only pseudonyms."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from schemas.records import CheckResult

FORMAT = 1


class Part(BaseModel):
    """A frozen part of a report; infinities and NaN are written as text, since JSON has none."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class About(Part):
    """Which version, and how it was made. ``users`` and ``events`` are without those erased since."""

    number: int
    aliases: tuple[str, ...]
    created_at: datetime
    as_of: datetime
    code: str
    aggregator: str
    encoder: str
    personalizer: str
    trained: bool
    parent: int | None
    users: int
    events: int


class Work(Part):
    """What the night did; ``hit_rate`` is the share of texts found in the cache, None where no text was looked for."""

    users_changed: int
    events_new: int
    texts_encoded: int
    cache_hits: int
    hit_rate: float | None
    seconds: float


class StageTime(Part):
    """One stage's shards: seconds they took together, and the longest one."""

    name: str
    shards: int
    seconds: float
    longest: float


class Intake(Part):
    """What the ingests ``first`` to ``last`` read and what became of it.

    Attributes:
        adds_up: whether ``read = accepted + duplicate + corrected + rejected``.
        reasons: rejects that are kept, by reason, the most frequent first; a row rejected before is not kept again.
        lateness: events by how long after they happened they were known, from ``LATENESS``.
    """

    first: int
    last: int
    read: int
    accepted: int
    duplicate: int
    corrected: int
    rejected: int
    adds_up: bool
    reasons: dict[str, int]
    lateness: dict[str, int]


class Histogram(Part):
    """Counts between ``edges`` (one more than ``counts``), of what is below the first edge, and of what is not finite."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    not_finite: int


class Spread(Part):
    """Quantiles (p1 … max) and histogram of a figure over some users."""

    users: int
    quantiles: dict[str, float]
    histogram: Histogram


class MovedUser(Part):
    """A user who moved by ``shift``, 1 − cosine; None where the user is new. ``user`` is a pseudonym."""

    user: str
    shift: float | None
    events_before: int
    events_after: int


class Census(Part):
    """Users of both versions; ``adds_up``: ``before + appeared − vanished = after``."""

    before: int
    appeared: int
    vanished: int
    after: int
    adds_up: bool


class Drift(Part):
    """What differs from the version ``base``.

    Attributes:
        roles: why it is compared with: ``parent``, ``production`` (what that named when the version was made), ``asked for``.
        one_line: whether vectors can be compared as they are; else only what no rotation changes is told.
        coverage: users over the base's.
        rewritten, moved: users of both whose state was written anew, and whose vector is another one.
        shift: 1 − cosine of the rewritten users.
        panel: users of both in the fixed panel; ``overlap``, ``cka`` and ``norms`` are of them.
        movers, growers: who moved farthest, and whose events grew or shrank most.
    """

    base: int
    roles: tuple[str, ...]
    one_line: bool
    coverage: float
    users: Census | None
    rewritten: int | None
    moved: int | None
    shift: Spread | None
    panel: int
    overlap: float
    cka: float
    norms: dict[str, dict[str, float]]
    movers: tuple[MovedUser, ...]
    growers: tuple[MovedUser, ...]


class StateMap(Part):
    """A sample of users' vectors on their two first principal components.

    Attributes:
        explained: share of the variance that each component holds.
        x, y: places.
        days: since each user's last event, at the version's ``as_of``; negative where it lies after that.
        events: of each user.
    """

    explained: tuple[float, float]
    x: tuple[float, ...]
    y: tuple[float, ...]
    days: tuple[float, ...]
    events: tuple[int, ...]


class Sample(Part):
    """What is told of a seeded sample of users, all of them in a small home: norms, events and days since the last event of each."""

    users: int
    norms: Spread
    events: Spread
    days: Spread
    map: StateMap


class Change(Part):
    """One thing that is not what it was at the version before; ``default`` where the configuration said, or says, nothing of a key."""

    what: str
    before: Any
    after: Any


class Night(Part):
    """One version of the line, as its record tells."""

    version: int
    created_at: datetime
    users: int
    users_changed: int
    events_new: int
    seconds: float
    failed: tuple[str, ...]


class Report(Part):
    """Everything told of a version.

    Attributes:
        checks: as they were when it was made.
        changes: of code, models and configuration since the first version in ``drift``.
        nights: the line's latest versions up to this one, oldest first.
        notes: what could not be told, and why.
    """

    format: int = FORMAT
    version: About
    work: Work
    stages: tuple[StageTime, ...]
    intake: Intake
    checks: tuple[CheckResult, ...]
    sample: Sample
    drift: tuple[Drift, ...]
    changes: tuple[Change, ...]
    nights: tuple[Night, ...]
    notes: tuple[str, ...]
