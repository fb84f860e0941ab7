"""The command line in this process, and a home that has something on every page of the console."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_bundles import USERS, make_bundle

from flows import cli
from pipelines.erase import Erasure
from schemas.records import IngestRecord, VersionRecord
from store.home import Home
from store.versions import promote

#: A user whose id would act if it were anything but text.
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def shown_home(home: Home, put: Callable[..., IngestRecord], night: Callable[..., VersionRecord]) -> Home:
    """Three versions (``production`` is 2, it was 1), rejects, a report, a bundle and an erasure."""
    for n in range(3):
        rows = [
            {"user_id": user, "event_id": f"{n}-{i}", "ts": 1_700_000_000 + (10 * n + i) * 86_400, "text": f"{SCRIPT} {n} {i}"}
            for user in ("alice", SCRIPT, *(["gone"] if n == 0 else []))
            for i in range(4)
        ]
        put(home, [*rows, *({"user_id": SCRIPT, "ts": "never", "text": SCRIPT} for _ in range(60 if n == 2 else 0))], name=f"{n}.jsonl")
        night(home)
    promote(home, 1, expected=None, reason="first")
    promote(home, 2, expected=1, reason=SCRIPT)
    Erasure(home, ["gone"]).erase("they asked")
    home.objects.put("reports/2.html", b"<!doctype html><h1>report of two</h1><script>top.document.title='owned'</script>")
    make_bundle(Path(home.uri) / "bundles/v2", USERS, version=2)
    home.objects.put("bundles/CURRENT", b"v2")
    return home


@pytest.fixture
def script() -> str:
    return SCRIPT


@pytest.fixture
def tapstate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command: exit code, standard output, standard error. An exception that leaves it fails the test."""
    monkeypatch.setenv("TAPSTATE_HOME", "")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PREFECT_HOME", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tapstate", *arguments])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        return code, out, err

    return run
