"""Lineage: what a command that changes the home reads and writes, told to OpenLineage through its own client.

Nothing is told unless that client is configured by its own means: ``OPENLINEAGE_URL``, ``OPENLINEAGE__TRANSPORT__…`` or an
``openlineage.yml``. Events carry names, schemas and counts, never a user. A server that is down costs a warning, not a night.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pyarrow as pa

from flows.console import note
from schemas.errors import ShardError, TapstateError
from store.provenance import code_version

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient

#: Seconds that a transport with a queue of its own may take to empty it.
PATIENCE = 10.0
PRODUCER = f"pkg:pypi/tapstate@{code_version()}"


@dataclass(frozen=True)
class Dataset:
    """Something read or written.

    Attributes:
        uri: a path or an object-store URI.
        version: the ingest, version, bundle, model or receipt of it.
        rows: read or written by this run; None if not counted.
        size: bytes, likewise.
    """

    uri: str
    version: str = ""
    schema: pa.Schema | None = None
    rows: int | None = None
    size: int | None = None


@dataclass
class Run:
    """One run of a job; ``reads`` and ``writes`` may be replaced until it ends."""

    job: str
    reads: Sequence[Dataset] = ()
    writes: Sequence[Dataset] = ()
    run_id: str = field(default_factory=lambda: str(uuid4()))
    within: "Run | None" = None
    teller: "_Teller | None" = None


@contextmanager
def run(
    job: str,
    reads: Sequence[Dataset] = (),
    *,
    within: Run | None = None,
    run_id: str | None = None,
    warn: Callable[[str], None] = note,
) -> Iterator[Run]:
    """Tell that a job starts, and that it completed, failed or was aborted.

    Args:
        reads: what it is known to read.
        within: the run that it is a part of.
        run_id: a UUID that others know the run by.
        warn: told once, where events cannot be sent.
    """
    told = Run(job, reads, within=within, teller=within.teller if within else _Teller.configured(warn))
    told.run_id = run_id or told.run_id
    state, error = "COMPLETE", None
    _tell(told, "START")
    try:
        yield told
    except Exception as raised:
        state, error = "FAIL", raised
        raise
    except BaseException:
        state = "ABORT"
        raise
    finally:
        _tell(told, state, error)
        if told.teller and not within:
            told.teller.close()


def _tell(told: Run, state: str, error: Exception | None = None) -> None:
    if told.teller:
        told.teller.emit(told, state, error)


class _Teller:
    """The client of one outermost run; after a failure it is left alone, so that a dead server delays a night once."""

    def __init__(self, client: "OpenLineageClient | None", warn: Callable[[str], None]) -> None:
        self.client, self.warn = client, warn
        self.namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "tapstate"

    @classmethod
    def configured(cls, warn: Callable[[str], None]) -> "_Teller | None":
        """None where nothing is configured: the client itself would then write every event into the log."""
        try:
            from openlineage.client import OpenLineageClient
            from openlineage.client.facet_v2 import set_producer
            from openlineage.client.transport.noop import NoopConfig, NoopTransport
        except ImportError:
            if any(value and name.startswith("OPENLINEAGE_") for name, value in os.environ.items()):
                warn("no lineage is told: OPENLINEAGE_… is set, its client is not installed\n  mend: pip install 'tapstate[lineage]'")
            return None
        try:
            if not OpenLineageClient(transport=NoopTransport(NoopConfig())).config.transport:
                return None
            set_producer(PRODUCER)
            # It would name the repository of the working directory as the job's source.
            return cls(OpenLineageClient(config={"facets": {"source_code_location": {"disabled": True}}}), warn)
        except Exception as error:
            _unsent(warn, error)
            return None

    def emit(self, told: Run, state: str, error: Exception | None) -> None:
        """Send one event, or warn and give up."""
        if self.client is None:
            return
        try:
            self.client.emit(self._event(told, state, error))
        except Exception as failed:
            self.close()
            _unsent(self.warn, failed)

    def close(self) -> None:
        client, self.client = self.client, None
        if client:
            with suppress(Exception):
                client.close(PATIENCE)

    def _event(self, told: Run, state: str, error: Exception | None) -> Any:
        from openlineage.client import event_v2 as event
        from openlineage.client.facet_v2 import error_message_run, job_type_job, parent_run, processing_engine_run

        facets: dict[str, Any] = {"processing_engine": processing_engine_run.ProcessingEngineRunFacet(code_version(), "tapstate")}
        if told.within:
            facets["parent"] = parent_run.ParentRunFacet(
                parent_run.Run(told.within.run_id), parent_run.Job(self.namespace, told.within.job)
            )
        if error:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(_reason(error), "PYTHON")
        kind = job_type_job.JobTypeJobFacet("BATCH", "TAPSTATE", "JOB")
        return event.RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            eventType=event.RunState[state],
            run=event.Run(told.run_id, facets),
            job=event.Job(self.namespace, told.job, {"jobType": kind}),
            inputs=[_input(dataset) for dataset in told.reads],
            outputs=[_output(dataset) for dataset in told.writes],
        )


def _unsent(warn: Callable[[str], None], error: Exception) -> None:
    warn(f"no lineage is told: {error}\n  mend: look at OPENLINEAGE_URL or openlineage.yml; OPENLINEAGE_DISABLED=true turns it off")


def _reason(error: Exception) -> str:
    """What failed. Words that are not ours can quote a row, and a shard's error quotes such words."""
    ours = isinstance(error, TapstateError) and not isinstance(error, ShardError)
    return f"{type(error).__name__}: {error.what}" if ours else type(error).__name__  # type: ignore[attr-defined]


def _input(dataset: Dataset) -> Any:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset as statistics

    counts = statistics.InputStatisticsInputDatasetFacet(dataset.rows, dataset.size)
    return InputDataset(*_name(dataset.uri), facets=_facets(dataset), inputFacets={"inputStatistics": counts})


def _output(dataset: Dataset) -> Any:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    counts = statistics.OutputStatisticsOutputDatasetFacet(dataset.rows, dataset.size)
    return OutputDataset(*_name(dataset.uri), facets=_facets(dataset), outputFacets={"outputStatistics": counts})


def _facets(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset

    facets: dict[str, Any] = {}
    if dataset.version:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(dataset.version)
    if dataset.schema is not None:
        fields = [schema_dataset.SchemaDatasetFacetFields(column.name, str(column.type)) for column in dataset.schema]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields)
    return facets


def _name(uri: str) -> tuple[str, str]:
    """Namespace and name, as OpenLineage's naming convention has files and objects."""
    if "://" not in uri:
        return "file", str(Path(uri).absolute())
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")
