"""Lineage through the real client: over HTTP to a server of ours, into a file, and nowhere at all."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from posts import posts

from flows import lineage
from flows.intake import take_in
from pipelines.ingest import ingest
from pipelines.sources.synthetic import SyntheticSource
from pipelines.sources.table import TableSource
from schemas.config import TrainConfig
from schemas.errors import InputError, ShardError, TapstateError
from schemas.records import VersionRecord
from store.home import Home

USER = "alice-of-the-events"


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable, and no file where the client looks for one; the client itself writes variables, which must not stay."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OPENLINEAGE_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(tmp_path))
        (tmp_path / "empty").mkdir()
        patch.chdir(tmp_path / "empty")
        yield
        for name in [name for name in os.environ if name.startswith("OPENLINEAGE_")]:
            del os.environ[name]


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """Takes events as an OpenLineage server does: its URL, and what it was told."""
    with posts() as taken:
        yield taken


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    good = [{"user_id": USER, "ts": 1_700_000_000 + n, "text": f"t {n}"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*good, {"user_id": USER, "ts": "never", "text": USER}]))
    return path


def test_an_ingest_is_told(home: Home, rows: Path, server: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, taken = server
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    take_in(home, TableSource([str(rows)]))
    assert {path for path, _ in taken} == {"/api/v1/lineage"}
    told = [event for _, event in taken]
    start, complete = told
    assert [event["eventType"] for event in told] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert (complete["job"]["namespace"], complete["job"]["name"]) == ("tapstate", "ingest")
    assert start["inputs"][0]["name"] == str(rows)
    (read,), (written,) = complete["inputs"], complete["outputs"]
    assert (read["namespace"], read["name"], read["inputFacets"]["inputStatistics"]["rowCount"]) == ("file", str(rows), 4)
    assert (written["namespace"], written["name"]) == ("file", f"{home.uri}/lance/events.lance")
    assert Path(written["name"]).is_dir()
    assert written["facets"]["version"]["datasetVersion"] == "1"
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert {"name": "user_id", "type": "string", "fields": []} in written["facets"]["schema"]["fields"]
    assert USER not in json.dumps(told)
    # The client would name the repository that the process stands in as the job's source.
    assert "sourceCodeLocation" not in complete["job"]["facets"]


@pytest.mark.slow
def test_training_bundles_and_erasures_are_told(
    new_home: Callable[..., Home],
    night: Callable[..., VersionRecord],
    tapstate: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = new_home(train=TrainConfig(steps=2, evaluate_every=2, llm_steps=2, prefix_length=1, history=8, batch_size=4))
    ingest(home, SyntheticSource(users=60, first_day=0, last_day=12, days=14, daily=1.0, seed=5), historical=True)
    log = tmp_path / "lineage.jsonl"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT", json.dumps({"type": "file", "log_file_path": str(log), "append": True}))

    def run(*command: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the command printed, and the last event that it told."""
        log.unlink(missing_ok=True)
        code, out, err = tapstate("--home", home.uri, *command, "--output", "json")
        assert code == 0, err
        told = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(event["job"]["name"], event["eventType"]) for event in told] == [(command[0], "START"), (command[0], "COMPLETE")]
        return json.loads(out), told[1]

    assert tapstate("--home", new_home("empty").uri, "train")[0] == 1
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["eventType"] for event in told] == ["START", "FAIL"]
    assert "errorMessage" in told[1]["run"]["facets"]

    made, last = run("train")
    assert last["inputs"][0]["name"] == f"{home.uri}/lance/events.lance"
    assert [item["name"] for item in last["outputs"]] == [f"{home.uri}/models/{made[part]}" for part in ("aggregator", "head")]
    assert all(Path(item["name"]).is_dir() for item in last["outputs"])

    version = night(home)
    made, last = run("bundle")
    (read,), (written,) = last["inputs"], last["outputs"]
    assert Path(read["name"]).is_dir()
    assert read["facets"]["version"]["datasetVersion"] == str(version.number)
    assert f"{written['name']}/{written['facets']['version']['datasetVersion']}" == made["bundle"]
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == version.users

    log.unlink()
    user = "user-0000003"
    assert tapstate("--home", home.uri, "erase", user)[0] == 0
    assert not log.exists(), "a dry run is no run"
    made, last = run("erase", user, "--yes")
    *tables, receipt = last["outputs"]
    names = {Path(item["name"]).name for item in tables}
    assert {"events.lance", Path(read["name"]).name} <= names
    assert all(Path(item["name"]).is_dir() for item in tables)
    assert (receipt["name"], receipt["facets"]["version"]["datasetVersion"]) == (f"{home.uri}/receipts", "1")
    assert user not in log.read_text()


def test_a_failure_is_told_without_its_data(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the client's file transport and ``openlineage.yml``; another's words may quote a row, so only their kind is told."""
    log = tmp_path / "lineage.jsonl"
    Path("openlineage.yml").write_text(f"transport: {{type: file, log_file_path: {log}, append: true}}\n")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "warehouse")
    with pytest.raises(InputError):
        take_in(home, TableSource([str(tmp_path / "none.jsonl")]))
    for error in (ValueError(f"bad row of {USER}"), ShardError(f"1 of 2 shards failed: bad row of {USER}")):
        with pytest.raises(type(error)), lineage.run("nightly") as outer, lineage.run("refresh", within=outer):
            raise error
    with pytest.raises(KeyboardInterrupt), lineage.run("nightly"):
        raise KeyboardInterrupt
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["eventType"] for event in told] == ["START", "FAIL", *["START", "START", "FAIL", "FAIL"] * 2, "START", "ABORT"]
    assert told[1]["run"]["facets"]["errorMessage"]["message"] == "InputError: no such file or directory"
    assert told[4]["run"]["facets"]["errorMessage"]["message"] == "ValueError"
    parent = told[4]["run"]["facets"]["parent"]
    assert (parent["run"]["runId"], parent["job"]["name"]) == (told[2]["run"]["runId"], "nightly")
    assert parent["job"]["namespace"] == told[4]["job"]["namespace"] == "warehouse"
    assert USER not in log.read_text()


def test_nothing_is_told_unless_configured(
    home: Home, rows: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Left alone, the client would write every event into the log."""
    caplog.set_level(logging.DEBUG)
    take_in(home, TableSource([str(rows)]))
    out, err = capfd.readouterr()
    assert "eventType" not in caplog.text + out + err
    assert "lineage" not in out + err
    assert not [record for record in caplog.records if record.name.startswith("openlineage") and record.levelno >= logging.WARNING]


def test_a_server_that_is_down_is_warned_of_once(home: Home, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("openlineage.yml").write_text("transport: {type: http, url: 'http://127.0.0.1:9', retry: {total: 0}}\n")
    warned: list[str] = []
    with lineage.run("nightly", warn=warned.append) as outer:
        assert take_in(home, TableSource([str(rows)]), within=outer)[0].accepted == 3
    assert len(warned) == 1
    assert warned[0].startswith("no lineage is told: ")
    assert "mend: look at OPENLINEAGE_URL" in warned[0]


@pytest.mark.parametrize("text", ["transport: {type: nonsense}", "transport: 7", "transport: {type: http}"])
def test_a_bad_configuration_is_a_warning(home: Home, rows: Path, text: str) -> None:
    Path("openlineage.yml").write_text(text)
    warned: list[str] = []
    with lineage.run("nightly", warn=warned.append):
        pass
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("uri", "name"),
    [("/data/e.jsonl", ("file", "/data/e.jsonl")), ("s3://bucket/home/lance", ("s3://bucket", "home/lance"))],
)
def test_names_follow_the_convention(uri: str, name: tuple[str, str]) -> None:
    from openlineage.client.naming.dataset import S3, LocalFileSystem

    theirs = S3("bucket", "home/lance") if "://" in uri else LocalFileSystem(uri)
    assert lineage._name(uri) == name == (theirs.get_namespace(), theirs.get_name())


def test_a_failure_is_told_in_our_words_without_its_place() -> None:
    assert lineage._reason(TapstateError("what", where="/path/of/alice", mend="…")) == "TapstateError: what"
