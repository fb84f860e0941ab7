"""The denylist: users and events that were erased stay out of later ingests until they are let in again.

It is the fold of the ``erasures`` ledger; it holds keyed tags, no ids.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from store.home import Home
from store.pseudonyms import Pseudonyms

USER_REASON = "the user was erased from this home"
EVENT_REASON = "the event was erased from this home"
WITHHELD = "the row is withheld: it names a user who was erased"
#: What in an unreadable row may be an id: a JSON string, a field between delimiters, a word.
_PIECES = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,;\t|"]+)')
_WORDS = re.compile(r"[^\s,;:|\"'{}\[\]()<>=]+")


@dataclass(frozen=True)
class Denylist:
    """Who is kept out, as of erasure ``number``."""

    number: int
    users: frozenset[str]
    events: frozenset[str]
    pseudonyms: Pseudonyms

    @classmethod
    def of(cls, home: Home) -> "Denylist":
        """The home's denylist now."""
        number = home.erasures.last()
        users: set[str] = set()
        events: set[str] = set()
        for record in home.erasures.range(0, number):
            if record.kind == "erase":
                users |= set(record.users)
                events |= set(record.events)
            else:
                users -= set(record.users)
                events -= set(record.events)
        return cls(number, frozenset(users), frozenset(events), Pseudonyms(home))

    def screen(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows of events (``user_id, event_id, source, line``) that may come in, and rejects for the others, which say no more than why."""
        denied = pl.Series("reason", [None] * len(rows), dtype=pl.String)
        if self.users:
            ids = rows["user_id"].unique()
            hit = ids.filter(pl.Series([tag in self.users for tag in self.pseudonyms.users(ids)], dtype=pl.Boolean))
            denied = denied.zip_with(~rows["user_id"].is_in(hit.implode()), pl.Series([USER_REASON], dtype=pl.String))
        if self.events:
            tags = self.pseudonyms.events(zip(rows["user_id"], rows["event_id"], strict=True))
            free = pl.Series([tag not in self.events for tag in tags], dtype=pl.Boolean)
            denied = denied.zip_with(free | denied.is_not_null(), pl.Series([EVENT_REASON], dtype=pl.String))
        bad = denied.is_not_null()
        rejects = rows.filter(bad).select("source", "line", reason=denied.filter(bad), raw=pl.lit(None, pl.String))
        return rows.filter(~bad), rejects

    def withhold(self, rejects: pl.DataFrame) -> pl.DataFrame:
        """Rejects (``reason, raw``) without the text of those that name a user who is kept out."""
        if not self.users:
            return rejects
        named = pl.Series([self._names(raw) for raw in rejects["raw"]], dtype=pl.Boolean)
        return rejects.with_columns(
            reason=pl.when(named).then(pl.format("{}; {}", pl.col("reason"), pl.lit(WITHHELD))).otherwise("reason"),
            raw=pl.when(~named).then("raw"),
        )

    def _names(self, raw: str | None) -> bool:
        return any(tag in self.users for tag in self.pseudonyms.users(set(candidates(raw or ""))))


def candidates(raw: str) -> Iterator[str]:
    """Everything in a raw row that may be somebody's id."""
    for quoted, field in _PIECES.findall(raw):
        yield (field or quoted).strip()
        if "\\" in quoted:
            try:
                yield json.loads(f'"{quoted}"').strip()
            except ValueError:
                continue
    yield from _WORDS.findall(raw)
