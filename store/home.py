"""A home: one directory or object-store prefix that holds everything tapstate keeps."""

import secrets
import shlex
import uuid
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from schemas.config import Config, parse, render
from schemas.errors import HomeError
from schemas.records import (
    FORMAT,
    AliasRecord,
    ErasureRecord,
    HomeRecord,
    IngestRecord,
    LineRecord,
    ReceiptRecord,
    RetiredRecord,
    VersionRecord,
)
from store.objects import Objects
from store.provenance import code_version, who
from store.records import Ledger, read_record
from store.tables import Tables

CONFIG = "config.toml"


def provenance() -> dict[str, object]:
    """The fields every record carries: when, by whom, with which code."""
    return {"created_at": datetime.now(UTC), "created_by": who(), "code": code_version()}


#: Random bits of a tag; the others say which number of a ledger the attempt is for.
RUN_BITS = 38


def new_run(number: int = 0) -> int:
    """A random tag for the rows of one attempt to write, int64 and positive.

    An attempt that is for record ``number`` of a ledger says so in its tag: once another attempt holds that number, this one's
    rows can never count, and whoever meets them may delete them.
    """
    return (number << RUN_BITS | secrets.randbits(RUN_BITS)) & (1 << 62) - 1


class Home:
    """An opened home.

    Attributes:
        uri: where it is.
        objects: its small objects.
        tables: its Lance tables.
        ingests, versions, lines, retired, erasures, receipts: its ledgers.
    """

    def __init__(self, uri: str) -> None:
        """Open the home at ``uri``.

        Raises:
            HomeError: no home there, or of a format this release cannot open.
        """
        # A local directory that is not there must not be made by looking for a home in it.
        there = "://" in uri or Path(uri).is_dir()
        self.objects = Objects(uri if there else "/")
        data = self.objects.get("home.json") if there else None
        if data is None:
            raise HomeError("no tapstate home there", where=uri, mend=f"tapstate --home {shlex.quote(uri)} init")
        self.uri = self.objects.uri
        self.record = read_record(HomeRecord, data, f"{self.uri}/home.json")
        if self.record.format != FORMAT:
            raise HomeError(
                f"the home has format {self.record.format}, written by tapstate {self.record.code}; this is tapstate {code_version()}, "
                f"which opens format {FORMAT}",
                where=self.uri,
                mend=f"pip install . in a checkout of tapstate {self.record.code} or later",
            )
        self.tables = Tables(self.objects)
        self.ingests = Ledger(self.objects, "ingests", IngestRecord)
        self.versions = Ledger(self.objects, "versions", VersionRecord)
        self.lines = Ledger(self.objects, "lines", LineRecord)
        self.retired = Ledger(self.objects, "retired", RetiredRecord)
        self.erasures = Ledger(self.objects, "erasures", ErasureRecord)
        # The receipt of erasure n is number n; an erasure that was cut off has none.
        self.receipts = Ledger(self.objects, "receipts", ReceiptRecord)

    def __reduce__(self) -> tuple[object, ...]:
        return (Home, (self.uri,))

    @classmethod
    def create(cls, uri: str, config: Config) -> tuple["Home", bool]:
        """The home at ``uri``, made with ``config`` unless it is there already; and whether it was made."""
        objects = Objects(uri)
        record = HomeRecord.model_validate({**provenance(), "home_id": str(uuid.uuid4())})
        if objects.get("home.json") is None:
            # The configuration first: with its record there, a home is whole.
            objects.create(CONFIG, render(config).encode())
        made = objects.create("home.json", record.model_dump_json(indent=1).encode())
        return cls(uri), made

    @cached_property
    def config(self) -> Config:
        """The home's configuration.

        Raises:
            ConfigError: ``config.toml`` says something that cannot be.
        """
        data = self.objects.get(CONFIG)
        return parse(data, where=f"{self.uri}/{CONFIG}") if data else Config()

    def aliases(self, name: str) -> Ledger[AliasRecord]:
        """The ledger of an alias's moves."""
        return Ledger(self.objects, f"aliases/{name}", AliasRecord)
