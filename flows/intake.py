"""An ingest, told to OpenLineage: sources in, the home's events out."""

from flows import datasets, lineage
from pipelines.ingest import ingest
from pipelines.meter import Meter
from pipelines.sources import Source
from pipelines.sources.table import TableSource
from schemas.records import IngestRecord
from store.home import Home


def take_in(
    home: Home, source: Source, *, historical: bool = False, meter: Meter | None = None, within: lineage.Run | None = None
) -> tuple[IngestRecord, list[str]]:
    """``pipelines.ingest.ingest``, as one run of the job ``ingest``, or of ``within``."""
    names = source.files if isinstance(source, TableSource) else [source.name]
    with lineage.run("ingest", [lineage.Dataset(name) for name in names], within=within) as told:
        record, damaged = ingest(home, source, historical=historical, meter=meter)
        if len(names) == 1:
            told.reads = [lineage.Dataset(names[0], rows=record.read)]
        told.writes = [datasets.events(home, record.number, record.accepted + record.corrected)]
    return record, damaged
