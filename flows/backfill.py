"""The backfill as a Prefect flow: the files of past days, day by day, and then one night.

Events count whatever their order of arrival, and those that are there already add nothing: a range may overlap another one, and one
that broke off is run again as it was.
"""

from datetime import date, timedelta
from functools import partial
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import lineage
from flows.console import note
from flows.intake import take_in
from flows.nightly import nightly
from flows.stages import stage
from pipelines.sources.table import TableSource
from schemas.errors import ConfigError, InputError
from schemas.records import IngestRecord
from store.home import Home

COUNTS = ("read", "accepted", "duplicate", "corrected", "rejected")


@flow(name="backfill", persist_result=False)
def backfill(
    home: str,
    files: str,
    first: date,
    last: date,
    map: dict[str, str] | None = None,
    const: dict[str, str] | None = None,
    historical: bool = False,
    refresh: bool = True,
) -> dict[str, Any]:
    """Ingest the files of every day from ``first`` to ``last``, and refresh.

    Args:
        home: directory or object-store URI of the home.
        files: where a day's files are, as ``tapstate ingest table`` takes them: ``s3://bucket/events/{day}/*.parquet``; ``{day}`` is
            written 2026-11-20, ``{day:%Y/%m/%d}`` as the format says.
        map, const: columns and constants of fields.
        historical: events without a knowledge time were known when they happened.
        refresh: make a night of it at once; otherwise the next one takes the events.

    Returns:
        ``days``, the sums of ``read, accepted, duplicate, corrected, rejected``, and what the night returned under ``night``.

    Raises:
        ConfigError: no such range, or the days' files would all have one name.
        InputError: days that could not be read, or not whole; every other day counts, and no night was made.
    """
    place, broken = Home(home), []
    records: list[IngestRecord] = []
    with lineage.run("backfill", run_id=flow_run.id) as told:
        for day, name in _days(files, first, last):
            source = TableSource([name], map, const)
            try:
                record, damaged = stage(f"ingest {day}", partial(take_in, place, source, historical=historical, within=told))
                records.append(record)
            except InputError as error:
                damaged = [f"{error.what} ({error.where})"]
            broken += [f"{day}: {text}" for text in damaged]
            note(f"{day}: {damaged or f'{record.accepted:,} new of {record.read:,} events'}")
        if broken:
            raise InputError(
                f"{len(broken)} of {(last - first).days + 1} days could not be read whole; the others count, no night was made",
                where="; ".join(broken[:5]),
                mend="mend or narrow the range, then run the backfill again: what counts already adds nothing",
            )
    sums = {name: sum(getattr(record, name) for record in records) for name in COUNTS}
    return {"days": len(records), **sums, "night": nightly(home) if refresh else None}


def _days(files: str, first: date, last: date) -> list[tuple[date, str]]:
    """Each day of the range and the name of its files."""
    if last < first:
        raise ConfigError(f"the last day, {last}, is before the first, {first}", mend="exchange first and last")
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    try:
        names = [files.format(day=day) for day in days]
    except (LookupError, ValueError, AttributeError) as error:
        raise ConfigError(f"not a name of a day's files: {error}", where=files, mend="events/{day}.jsonl.gz") from error
    if len(set(names)) < len(names) or files.format(day=date.min) == files:
        raise ConfigError("every day would have the same files", where=files, mend="events/{day}.jsonl.gz")
    return list(zip(days, names, strict=True))
