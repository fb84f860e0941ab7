"""What a home holds, as lineage names it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from flows.lineage import Dataset
from schemas.events import EVENTS
from schemas.records import Found, ReceiptRecord, VersionRecord
from schemas.states import StateSpec
from store.home import Home
from store.states import States

#: How a receipt names a table.
TABLE = "table "


def events(home: Home, ingest: int, rows: int | None = None) -> Dataset:
    """The events up to an ingest."""
    return _table(home, "events", EVENTS, ingest, rows)


def states(home: Home, version: VersionRecord, spec: StateSpec, rows: int | None = None) -> Dataset:
    """The states of a version."""
    held = States(home, version.aggregator, spec)
    return _table(home, held.name, held.schema, version.number, rows)


def bundle(uri: str, manifest: Mapping[str, Any]) -> Dataset:
    """A bundle on a shelf."""
    shelf, _, name = uri.rpartition("/")
    users = sum(file["users"] for file in manifest["states"]["files"])
    return Dataset(shelf, name, rows=users, size=sum(file["bytes"] for file in manifest["files"].values()))


def models(home: Home, *hashes: str) -> list[Dataset]:
    """Checkpoints, each a dataset of one version: the same hash holds the same bytes."""
    return [Dataset(f"{home.objects.uri}/models/{name}", name) for name in hashes]


def erased(home: Home, receipt: ReceiptRecord) -> list[Dataset]:
    """The tables that an erasure took rows from, and its receipt."""
    tables = [Dataset(f"{home.objects.uri}/lance/{name}.lance") for name in _tables(receipt.removed)]
    return [*tables, Dataset(f"{home.objects.uri}/receipts", str(receipt.number))]


def _tables(removed: Sequence[Found]) -> list[str]:
    return [found.where.removeprefix(TABLE) for found in removed if found.where.startswith(TABLE)]


def _table(home: Home, name: str, schema: pa.Schema, version: int, rows: int | None) -> Dataset:
    return Dataset(f"{home.objects.uri}/lance/{name}.lance", str(version), schema, rows)
