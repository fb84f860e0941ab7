"""Homes, events and a tiny real encoder, shared by the suites."""

import json
import os
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import settings

from pipelines.ingest import ingest
from pipelines.refresh import Refresh
from pipelines.sources.table import TableSource
from schemas.config import Config, EncoderConfig, RefreshConfig, TideConfig
from schemas.records import IngestRecord, VersionRecord
from store.events import EventLog
from store.home import Home

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same examples on every run, so that a red run is about the change; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
ROOT = Path(__file__).parents[1]
TIDE = TideConfig(slots=4, dim=16, window=5, hidden=16)

Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer, with a WordPiece vocabulary of letters and digits (and rows for the ids that an export is checked on)."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    directory = tmp_path_factory.mktemp("encoder")
    letters = string.ascii_lowercase + string.digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=2048, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64
    )
    BertModel(shape).save_pretrained(directory)
    return directory


@pytest.fixture
def new_home(tmp_path: Path, tiny_encoder: Path) -> Callable[..., Home]:
    """Makes homes by name; ``shard_events`` says how they cut their nights, ``sections`` are other sections of the configuration."""

    def make(name: str = "home", *, shard_events: int = 64, tide: TideConfig = TIDE, **sections: Any) -> Home:
        encoder = EncoderConfig(model=str(tiny_encoder), max_tokens=32)
        config = Config(encoder=encoder, tide=tide, refresh=RefreshConfig(shard_events=shard_events), **sections)
        return Home.create(name if "://" in name else str(tmp_path / name), config)[0]

    return make


@pytest.fixture
def home(new_home: Callable[..., Home]) -> Home:
    return new_home()


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., IngestRecord]:
    """Ingests rows through a file of JSON lines."""

    def run(home: Home, rows: Rows, *, name: str = "rows.jsonl", historical: bool = True) -> IngestRecord:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        record, damaged = ingest(home, TableSource([str(path)]), historical=historical)
        assert not damaged
        assert record.read == record.accepted + record.duplicate + record.corrected + record.rejected
        return record

    return run


def night(home: Home, *, full: bool = False) -> VersionRecord | None:
    """One refresh without its scheduler; None on a quiet night."""
    refresh = Refresh(home, full=full)
    planned = refresh.plan()
    if planned is None:
        return None
    folder, plan = planned
    encoded = refresh.encode(plan)
    return refresh.commit(folder, plan, encoded, refresh.update(folder, plan), datetime.now(UTC))


@pytest.fixture(name="night")
def night_fixture() -> Callable[..., VersionRecord | None]:
    return night


def visible(home: Home) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """What the records make count: events and rejects, without the tags of the runs that wrote them."""
    log, last = EventLog(home), home.ingests.last()
    columns = ["user_id", "event_id", "revision", "op", "ts", "text", "target", "value", "user_key", "event_key", "content_key"]
    frames = list(log.scan(columns, after=0, until=last))
    events = pl.concat(frames).rows() if frames else []
    rejects = log.rejects(last).drop("ingest").rows()
    return sorted(events, key=repr), sorted(rejects, key=repr)


@pytest.fixture(name="visible")
def visible_fixture() -> Callable[[Home], Any]:
    return visible


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts real Python processes: ``spawn("-c", code, arg)`` or ``spawn("-m", "flows.cli", …)``."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An S3-type store on loopback; the URI of an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    wanted = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=wanted["AWS_ENDPOINT_URL"], region_name="us-east-1").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh local directory, and a fresh prefix of an S3-type store."""
    if request.param == "local":
        return str(tmp_path / "place")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
