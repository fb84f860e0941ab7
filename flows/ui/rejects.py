"""Rejects: rows that could not become events, by ingest, with reason, source and line."""

from typing import Any

import polars as pl
from nicegui import ui

from flows.ui.frame import Console, address, frame, grid, heading
from schemas.errors import NotFoundError
from schemas.records import IngestRecord
from store.home import Home
from store.pages import PAGE, newest_first, rejects

#: Ingests listed, and letters shown of a raw row.
INGESTS, LETTERS = 30, 300


def register(console: Console) -> None:
    """The page at ``/rejects``."""

    @ui.page("/rejects")
    async def page(ingest: int | None = None, start: int = 0, before: int | None = None) -> None:
        with frame(console, "Rejects"):
            found = await console.load(_ingests, before)
            if found is None:
                return
            heading("Ingests", "read = accepted + duplicate + corrected + rejected")
            grid([_row(record) for record in found], "Nothing was ingested yet.", links={"rejected": "_link"}, mark="ingests")
            if len(found) == INGESTS and found[-1].number > 1:
                ui.link("older", address("/rejects", before=found[-1].number))
            if ingest is None:
                return
            some = await console.load(_rejects, ingest, max(0, start))
            if some is None:
                return
            record, frame_ = some
            last = start + len(frame_)
            heading(f"Rejects of ingest {ingest}", f"{start + 1 if len(frame_) else 0:,} to {last:,} of {record.rejected:,}")
            grid(frame_.to_dicts(), "No rejects.", mark="rejects")
            with ui.row():
                if start:
                    ui.link("before", address("/rejects", ingest=ingest, start=max(0, start - PAGE)))
                if last < record.rejected and len(frame_):
                    ui.link("next", address("/rejects", ingest=ingest, start=last)).mark("next")


def _ingests(home: Home, before: int | None) -> list[IngestRecord]:
    return [record for record, _ in zip(newest_first(home.ingests, before), range(INGESTS), strict=False)]


def _rejects(home: Home, number: int, start: int) -> tuple[IngestRecord, pl.DataFrame]:
    record = home.ingests.get(number)
    if record is None:
        raise NotFoundError(f"no ingest {number}", where=home.uri, mend="take one of the list")
    return record, rejects(home, record, start).with_columns(pl.col("raw").str.slice(0, LETTERS))


def _row(record: IngestRecord) -> dict[str, Any]:
    return {
        "ingest": record.number,
        "created (UTC)": record.created_at,
        "sources": ", ".join(record.sources)[:LETTERS],
        "read": record.read,
        "accepted": record.accepted,
        "duplicate": record.duplicate,
        "corrected": record.corrected,
        "rejected": record.rejected,
        "_link": address("/rejects", ingest=record.number) if record.rejected else None,
    }
