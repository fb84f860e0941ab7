"""Erase: users, or single events, leave every table, version, bundle, index, plan and log of a home, and that is proven.

A record first: from then on ingests keep them out, and a refresh that runs stops. Then events, rejects, embeddings that only they
had, states and bundles, in this order, so that whatever a writer still makes of them meets a fence further on. Then the proof, and
the receipt. Killed at any point and run again, it completes.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from pipelines.meter import Meter, Silent
from pipelines.remainder import Remainder
from pipelines.subjects import EMBEDDINGS, STATES, Keys, Subjects, embeddings_filter, rejects_filter
from schemas.errors import ConflictError, NotFoundError
from schemas.records import ErasureRecord, Found, ReceiptRecord
from store.bundle import BundleShelf
from store.denylist import Denylist
from store.events import EVENTS_TABLE, REJECTS_TABLE
from store.home import Home, provenance
from store.needles import Needles
from store.proof import Search, prove
from store.pseudonyms import Pseudonyms, shown
from store.purge import purge
from store.reports import FOLDER, pages
from store.scratch import sweep
from store.scrub import Scrub
from store.withdrawal import Withdrawal

#: Turns of removal and proof: a writer that was under way may leave a file between them.
TURNS = 3
#: What stands in a log for a text of theirs, and the shortest text (in bytes) that is looked for there.
WITHHELD, LOGGED = "[erased]", 8


@dataclass
class Erasure:
    """One erasure of some users and some single events.

    Args:
        home: the home.
        users: ids of users who leave.
        events: ``(user_id, event_id)`` of single events; their users stay, and get their states computed anew in every version.
        journals: directories of logs and databases that belong to the home but may lie elsewhere (Prefect's home).
        meter: who is told of progress.
    """

    home: Home
    users: Sequence[str]
    events: Sequence[tuple[str, str]] = ()
    journals: tuple[Path, ...] = ()
    meter: Meter = field(default_factory=Silent)

    def __post_init__(self) -> None:
        self.users = list(dict.fromkeys(self.users))
        self.events = [pair for pair in dict.fromkeys(self.events) if pair[0] not in set(self.users)]
        self.subjects = Subjects(self.home, self.users, self.events)
        self.remainder, self.pseudonyms = Remainder(self.subjects), Pseudonyms(self.home)
        hashes = self.subjects.hashes
        self.withdrawal = Withdrawal(self.home, hashes[:, 0], hashes[:, 1])
        names = [shown("user", tag) for tag in self.pseudonyms.users(self.users)]
        # Messages of failed shards name a user by key.
        keys = map(str, hashes[: len(self.users), 0].tolist())
        self.names = dict(zip([*self.users, *keys], [*names, *names], strict=True))
        self.scrub = Scrub(self.names)

    def survey(self) -> list[Found]:
        """What would go, by place; changes nothing."""
        subjects, tables = self.subjects, self.subjects.tables
        found = [
            Found(where=f"table {EVENTS_TABLE}", rows=len(subjects.rows), action="rows removed, every revision"),
            Found(where=f"table {REJECTS_TABLE}", rows=len(subjects.rejects()), action="rows that name them removed"),
        ]
        texts = subjects.texts["key"].sort().to_numpy()
        for name in subjects.names(EMBEDDINGS):
            rows = sum(batch.num_rows for batch in tables.scan(name, ["key"], filter=embeddings_filter(texts)))
            found.append(Found(where=f"table {name}", rows=rows, action="vectors of texts that nobody else has removed"))
        action = "rows removed in every version" + ("; single events: computed anew without them" if self.events else "")
        found += [Found(where=f"table {n}", rows=subjects.held(n, subjects.states_filter()), action=action) for n in subjects.names(STATES)]
        found += [
            Found(where=f"bundle {b.name} ({b.bundle_id[:12]})", rows=b.users, action="written anew without them, under a new id")
            for b in self.withdrawal.affected()
        ]
        found += [Found(where=str(p), rows=self.scrub.count(p), action="pseudonyms in their place") for p in self._journals()]
        found = [place for place in found if place.rows]
        if not found:
            return []
        # Which of these tell of the users cannot be seen: a plan is of all events since its parent, points of a map have no name.
        plans = sum(self.home.objects.get(f"plans/{name}/plan.json") is not None for name in self.home.objects.names("plans"))
        found.append(Found(where="plans of unfinished refreshes", rows=plans, action="dropped; the next refresh plans anew"))
        found.append(Found(where="reports", rows=len(pages(self.home)), action="deleted, all of them; tapstate report N makes one anew"))
        return [place for place in found if place.rows]

    def cannot_undo(self) -> list[str]:
        """What stays out of reach: checkpoints, and bundles that somebody may have pulled."""
        left = []
        for name in self.home.objects.names("models"):
            about = self.home.objects.get(f"models/{name}/aggregator.json")
            if about is None or json.loads(about)["trained"]:
                left.append(f"model {name[:12]}: a checkpoint that may have been trained on their events; train anew to be rid of it")
        left += [
            f"bundle {b.name} ({b.bundle_id[:12]}): copies that were pulled still hold {b.users} of them; whoever serves it must pull "
            "again (tapstate bundle pulls says who left a record)"
            for b in self.withdrawal.affected()
            if b.users
        ]
        left += [
            f"source {name!r} in ingests/{record.number}.json: a file name with an id in it"
            for record in self.home.ingests.all()
            for name in {self.scrub.text(source) for source in record.sources if self.scrub.text(source) != source}
        ]
        return left

    def erase(self, reason: str) -> ReceiptRecord:
        """Do it.

        Raises:
            NotFoundError: the home holds nothing of them and never did.
            ConflictError: the proof still finds something, since writers keep bringing it back; run it again.
            HomeError: the home cannot be written.
        """
        began = time.monotonic()
        users, events = self.pseudonyms.users(self.users), self.pseudonyms.events(self.events)
        tags = {*users, *events}
        denylist, unfinished = Denylist.of(self.home), self._unfinished()
        found = self.survey()
        if not found and not tags & (denylist.users | denylist.events):
            raise NotFoundError("the home holds nothing of them", where=self.home.uri, mend="check the ids: they are exact, case included")
        cut_off = [record for record in unfinished if tags & {*record.users, *record.events}]
        left = tuple(dict.fromkeys(self.cannot_undo()))
        instead = self.remainder.states()
        needles = self.subjects.needles(instead.values())
        number = self._announce(users, events, cut_off, instead, reason)
        candidates = self._candidates(bool(cut_off))
        for _ in range(TURNS):
            self._remove(number, candidates, instead)
            search = self._prove(needles)
            if not search.hits:
                break
            # Nothing of ours logs texts; an error message of a library may quote one.
            self.scrub = Scrub({text.decode(): WITHHELD for text in needles.texts if len(text) >= LOGGED} | self.names)
        else:
            raise ConflictError(
                f"after {TURNS} turns the proof still finds them: {', '.join(search.record(needles).hits[:5])}",
                where=self.home.uri,
                mend="stop other writers of this home, then run the command again",
            )
        done = [record.number for record in cut_off if {*record.users, *record.events} <= tags and record.number != number]
        receipt = ReceiptRecord.model_validate(
            {
                **provenance(),
                "number": number,
                "users": [shown("user", tag) for tag in users],
                "events": [shown("event", tag) for tag in events],
                "removed": found,
                "finishes": done,
                "proof": search.record(needles),
                "cannot_undo": left,
                "seconds": round(time.monotonic() - began, 3),
            }
        )
        self.home.receipts.append(number, receipt)
        return receipt

    def _unfinished(self) -> list[ErasureRecord]:
        """Erasures without a receipt, which no later one finished."""
        receipts = [self.home.receipts.get(record.number) for record in self.home.erasures.all()]
        finished = {number for receipt in receipts if receipt for number in (receipt.number, *receipt.finishes)}
        return [record for record in self.home.erasures.all() if record.kind == "erase" and record.number not in finished]

    def _announce(
        self, users: list[str], events: list[str], cut_off: list[ErasureRecord], instead: dict[str, pa.Table], reason: str
    ) -> int:
        """Write the record, unless the one that is taken up says it all; its number."""
        said = {tag for record in cut_off for tag in (*record.users, *record.events)}
        if cut_off and {*users, *events} <= {*cut_off[-1].users, *cut_off[-1].events}:
            return cut_off[-1].number
        while True:
            # Figures that an erasure cut off has noted must not be noted twice.
            new_users = [user for user, tag in zip(self.users, users, strict=True) if tag not in said]
            new_events = {pair[0] for pair, tag in zip(self.events, events, strict=True) if tag not in said}
            number, versions = self.home.erasures.last() + 1, self.home.versions.last()
            record = ErasureRecord.model_validate(
                {
                    **provenance(),
                    "number": number,
                    "kind": "erase",
                    "users": users,
                    "events": events,
                    "bundle_tags": BundleShelf(self.home).tags(self.users),
                    "shrunk": self.remainder.shrunk(new_users, new_events, instead),
                    "reason": reason,
                }
            )
            if versions == self.home.versions.last() and self.home.erasures.append(number, record):
                return number

    def _candidates(self, resumed: bool) -> Keys:
        """Keys of texts that may have nobody left; all there are where an erasure that was cut off has lost its own list."""
        mine = pl.concat([self.subjects.rows["text_key"], self.subjects.rows["target_key"]])
        parts = [mine.drop_nulls().to_numpy()]
        if resumed:
            parts += [b.column("key").to_numpy() for n in self.subjects.names(EMBEDDINGS) for b in self.subjects.tables.scan(n, ["key"])]
        return np.unique(np.concatenate(parts))

    def _remove(self, number: int, candidates: Keys, instead: dict[str, pa.Table]) -> None:
        """One turn through every place."""
        subjects, tables = self.subjects, self.subjects.tables
        embeddings, states = subjects.names(EMBEDDINGS), subjects.names(STATES)
        self.meter.start("erase", 4 + len(embeddings) + len(states), "places")
        half_built = self.withdrawal.half_built()
        purge(tables, EVENTS_TABLE, subjects.events_filter())
        self.meter.advance("erase", 1)
        purge(tables, REJECTS_TABLE, rejects_filter(subjects.rejects()))
        self.meter.advance("erase", 1)
        orphans = subjects.orphans(candidates)
        for name in embeddings:
            purge(tables, name, embeddings_filter(orphans))
            self.meter.advance("erase", 1)
        for name in states:
            purge(tables, name, subjects.states_filter(), instead.get(name))
            self.meter.advance("erase", 1)
        self.withdrawal.withdraw(number)
        self.withdrawal.sweep(half_built)
        sweep()
        self.meter.advance("erase", 1)
        for folder in self.home.objects.names("plans"):
            self.home.objects.delete(f"plans/{folder}")
        self.home.objects.delete(FOLDER)
        for place in self._journals():
            self.scrub.clean(place)
        self.meter.finish("erase")

    def _prove(self, needles: Needles) -> Search:
        self.meter.start("prove", None, "files")
        search = prove(self.home, needles, tuple(p for p in self._journals() if not p.is_relative_to(self.home.uri)))
        self.meter.finish("prove")
        return search

    def _journals(self) -> list[Path]:
        return [place for place in self.journals if place.is_dir()]


def lift(home: Home, users: Sequence[str], events: Sequence[tuple[str, str]], reason: str) -> ErasureRecord:
    """Let users and events in again: later ingests take them. What was erased does not come back by itself.

    Raises:
        NotFoundError: one of them is not kept out; names its pseudonym.
    """
    denylist, pseudonyms = Denylist.of(home), Pseudonyms(home)
    tags = {"users": pseudonyms.users(users), "events": pseudonyms.events(events)}
    strange = [shown("user", t) for t in tags["users"] if t not in denylist.users]
    strange += [shown("event", t) for t in tags["events"] if t not in denylist.events]
    if strange:
        raise NotFoundError(f"not kept out: {', '.join(strange[:5])}", where=home.uri, mend="check the ids: they are exact, case included")
    while True:
        number = home.erasures.last() + 1
        record = ErasureRecord.model_validate(
            {**provenance(), "number": number, "kind": "lift", **tags, "bundle_tags": BundleShelf(home).tags(users), "reason": reason}
        )
        if home.erasures.append(number, record):
            return record
