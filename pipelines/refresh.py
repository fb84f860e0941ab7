"""Refresh: new events into one new version, in stages that each can be run again.

plan → encode → update → commit. The plan and every finished shard's manifest are stored; a killed run picks them up and ends in
the same states. The states count once the version's record is written.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from encoders.checkpoint import pack_aggregator
from encoders.personalizer import Aggregator
from encoders.registry import new_aggregator
from pipelines.checks import check_version, complaint
from pipelines.described import open_aggregator
from pipelines.drift import prefix_ratio
from pipelines.encode import Encoded, TextShards, run_encode
from pipelines.encoder import KnownEncoder
from pipelines.engines import Engine, Local
from pipelines.meter import Meter, Silent
from pipelines.plan import Size, plan_refresh
from pipelines.stages import Stage, figures
from pipelines.update import Shifted, updater
from schemas.config import settings
from schemas.errors import ConflictError, NotFoundError
from schemas.records import CheckResult, Plan, VersionRecord
from store.changes import Changes
from store.comparison import Comparison, View, compare, gather
from store.embeddings import Embeddings
from store.events import EventLog
from store.home import Home, provenance
from store.lines import CANDIDATE, Lines
from store.models import Models
from store.states import States
from store.versions import PRODUCTION, counts, current, newest, retired


@dataclass
class Refresh:
    """One refresh of one line of a home.

    Args:
        home: the home.
        full: rebuild every user from all events.
        line: the line's aggregator; the newest line's by default.
        engine: where shards run.
        meter: who is told of progress.

    Attributes:
        drift: what differs from the version ``against``, once committed: the parent, or what it came of if it failed its checks, so that
            it does not pass its fault on.
    """

    home: Home
    full: bool = False
    line: str | None = None
    engine: Engine = field(default_factory=Local)
    meter: Meter = field(default_factory=Silent)
    drift: Comparison | None = field(default=None, init=False)
    against: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.log = EventLog(self.home)
        self.models = Models(self.home)
        self.lines = Lines(self.home)

    @cached_property
    def encoder(self) -> KnownEncoder:
        """The line's text encoder; the configured one before any training."""
        return KnownEncoder(self.home, self.lines.encoder(self.line or self.lines.newest()))

    @cached_property
    def aggregator_hash(self) -> str:
        """The aggregator of the line that is refreshed: an untrained one, from the configured seed, before any training."""
        known = self.line or self.lines.newest()
        if known:
            return known
        aggregator = new_aggregator(self.home.config, self.encoder.dim)
        name, files = pack_aggregator(aggregator, self.encoder.fingerprint, trained=False)
        self.models.save(name, files)
        return name

    @cached_property
    def aggregator(self) -> Aggregator:
        """The line's aggregator, refused if the encoder that is found is not its own."""
        return open_aggregator(self.home, self.aggregator_hash, self.encoder.fingerprint)

    @cached_property
    def parent(self) -> VersionRecord | None:
        """The line's newest version."""
        return newest(self.home, self.aggregator_hash)

    def plan(self) -> tuple[str, Plan] | None:
        """The stored plan and its folder; None if no event came since the parent.

        Raises:
            NotFoundError: nothing was ever ingested.
        """
        last = self.home.ingests.last()
        if not last:
            raise NotFoundError("nothing to refresh: no events were ingested yet", where=self.home.uri, mend="tapstate ingest table FILE…")
        rebuild = self.full or self.parent is None
        first = 0 if rebuild or self.parent is None else self.parent.last_ingest
        if not rebuild and not any(record.accepted or record.corrected for record in self.home.ingests.range(first, last)):
            return None
        number = self.parent.number if self.parent else None
        plan = plan_refresh(
            self.home,
            self.log,
            Size.of(self.home.config.refresh, self.aggregator.spec, self.encoder.dim),
            aggregator=self.aggregator_hash,
            encoder=self.encoder.fingerprint,
            states_since=self._states().mark(),
            texts_since=Embeddings(self.home, self.encoder.fingerprint, self.encoder.dim).mark(),
            parent=number,
            first=first,
            last=last,
            rebuild=rebuild,
        )
        return plan.folder, plan

    def encode(self, plan: Plan) -> Encoded:
        """Encode what the cache does not hold.

        Raises:
            ShardError: shards failed; names the first. What the others did is kept.
            ConflictError: another refresh of this line finished first, or an erasure came.
        """
        work = TextShards(self.log, self.encoder, plan.first_ingest, plan.last_ingest, plan.texts_since, self.meter)
        with self._undisputed(plan):
            return run_encode(work, plan.folder, plan.texts, self.engine, self.home.config.refresh.retries)

    def update(self, folder: str, plan: Plan) -> list[Shifted]:
        """Compute and stage every shard that no earlier run finished.

        Raises:
            ShardError: shards failed; names the first and its first bad user. What the others did is kept.
            ConflictError: another refresh of this line finished first, or an erasure came.
        """
        self.meter.start("update", sum(shard.events for shard in plan.shards), "events")
        work = updater(self.home, plan, self.aggregator, self.meter)
        with self._undisputed(plan):
            manifests = Stage(self.home, folder, "update", Shifted, work).run(
                plan.shards, self.engine, self.home.config.refresh.retries, work.first_bad
            )
        self.meter.finish("update")
        return manifests

    def commit(self, folder: str, plan: Plan, encoded: Encoded, shards: Sequence[Shifted], started: datetime) -> VersionRecord:
        """Append the states, check them and write the version's record.

        Raises:
            ConflictError: another refresh of this line finished first, names its version; or an erasure came.
        """
        parent = self.parent
        self._first(parent)
        if parent:
            # What a check compares with is the parent as it is now, without whom was erased since.
            users, events = counts(self.home, parent)
            parent = parent.model_copy(update={"users": users, "events": events})
        with self._undisputed(plan):
            self._states().commit(plan.run, [f for s in shards for f in s.fragments])
        self._unerased(plan)
        base = parent if plan.kind == "update" else None
        users = sum(s.users for s in shards) + (base.users if base else 0)
        runs = (*(base.runs if base else ()), plan.run)
        known = self.log.known_at_max(self.home.ingests.range(0, plan.last_ingest))
        fields = {
            **provenance(),
            "aggregator": self.aggregator_hash,
            "encoder": self.encoder.fingerprint,
            "personalizer": self.aggregator.name,
            "trained": self.models.about(self.aggregator_hash)["trained"],
            "parent": parent.number if parent else None,
            "runs": runs,
            "last_ingest": plan.last_ingest,
            "as_of": datetime.fromtimestamp(known, UTC) if known else started,
            "users": users,
            "users_changed": sum(s.changed for s in shards),
            "events": sum(s.events for s in shards) + (base.events if base else 0),
            "events_new": sum(s.new_events for s in shards),
            "texts_encoded": encoded.texts,
            "cache_hits": encoded.hits,
            "stages": {"encode": encoded.figures, "update": figures(shards)},
            "settings": settings(self.home.config),
            "seconds": round((datetime.now(UTC) - started).total_seconds(), 3),
            "checks": self._check(plan, runs, users, shards),
        }
        seen = self.home.versions.last()
        while True:
            record = VersionRecord.model_validate({**fields, "number": seen + 1})
            self._first(parent)
            self._unerased(plan)
            if self.home.versions.append(seen + 1, record):
                self.home.objects.delete(folder)
                return record
            seen = self.home.versions.last()

    def _check(self, plan: Plan, runs: tuple[int, ...], users: int, shards: Sequence[Shifted]) -> tuple[CheckResult, ...]:
        """Figures of the states that are about to become a version, before its record says so."""
        spec, config, head = self.aggregator.spec, self.home.config, self.models.current_head(self.aggregator_hash)
        states = self._states()
        after, (base, failed) = View(states, spec, runs, users), self._sound()
        if base:
            before = View(states, spec, base.runs, counts(self.home, base)[0])
            told = [Changes.from_json(shard.changes) for shard in shards if shard.changes]
            # What shards tell is since the parent.
            every = plan.kind == "update" and base == self.parent and len(told) == len(shards)
            self.drift = gather(before, after, told, seed=config.seed) if every else compare(before, after, seed=config.seed)
            self.against = base.number
        # A line's first version must cover production's users.
        covered = base or self.lines.production()
        return check_version(
            config.checks,
            users,
            counts(self.home, covered)[0] if covered else 0,
            shards,
            self.drift,
            prefix_ratio(self.models.directory(head), after, config.seed) if head else None,
            # A rebuild holds no state of theirs.
            [check for version in failed for check in version.checks] if plan.kind == "update" else (),
        )

    def _sound(self) -> tuple[VersionRecord | None, list[VersionRecord]]:
        """The newest version of the line that passed its checks or was promoted all the same, and the failed ones since."""
        named, gone = {current(self.home, alias) for alias in (PRODUCTION, CANDIDATE)}, retired(self.home)
        found, failed = self.parent, list[VersionRecord]()
        while found and complaint(found.checks) and found.number not in named:
            failed.append(found)
            found = self.home.versions.get(found.parent) if found.parent and found.parent not in gone else None
        return (found, failed) if found else (self.parent, failed)

    def _states(self) -> States:
        return States(self.home, self.aggregator_hash, self.aggregator.spec)

    @contextmanager
    def _undisputed(self, plan: Plan) -> Iterator[None]:
        """Drop a plan whose rows are refused or that is gone, so that nobody takes it up again; and say who came first."""
        try:
            yield
        except ConflictError:
            self.home.objects.delete(plan.folder)
            self._first(self.parent)
            self._unerased(plan)
            raise

    def _unerased(self, plan: Plan) -> None:
        """Refuse to go on if an erasure came since the plan was made: its rows may be gone, its counts are of before."""
        if self.home.erasures.last() != plan.erasure:
            self.home.objects.delete(plan.folder)
            raise ConflictError("users were erased while this refresh ran", where=self.home.uri, mend="tapstate refresh")

    def _first(self, parent: VersionRecord | None) -> None:
        """Whether no other refresh of this line finished since ``parent``."""
        rival = newest(self.home, self.aggregator_hash)
        if rival and rival.number != (parent.number if parent else None):
            raise ConflictError(
                f"another refresh of this line made version {rival.number} meanwhile ({rival.created_by})",
                where=self.home.uri,
                mend="tapstate refresh",
            )
