"""``tapstate erase``: shows first, acts with --yes, and Prefect's own database is no exception."""

import json
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.erase import Erasure
from store.home import Home
from store.proof import prove

Spawn = Callable[..., subprocess.Popen[str]]


Tapstate = Callable[..., tuple[int, str, str]]
ROWS = [
    {"user_id": f"person-{u:04}", "event_id": f"e{i}", "ts": 1_700_000_000 + i, "text": f"words of {u} {i}"}
    for u in range(6)
    for i in range(4)
]


def test_shows_then_acts(tapstate: Tapstate, home: Home, put: Callable[..., object], night: Callable[..., object], tmp_path: Path) -> None:
    put(home, ROWS)
    night(home)
    code, out, err = tapstate("--home", home.uri, "erase", "person-0001", "-o", "json")
    shown = json.loads(out)
    assert (code, shown["done"], shown["users"], home.erasures.last()) == (0, False, 1, 0)
    assert {f["where"]: f["rows"] for f in shown["found"]}["table events"] == 4
    assert "--yes" in err
    code, out, err = tapstate("--home", home.uri, "erase", "person-0001", "--yes", "-o", "json")
    receipt = json.loads(out)
    assert (code, receipt["done"], receipt["proof"]["hits"]) == (0, True, [])
    assert "person-0001" not in out + err
    code, out, err = tapstate("--home", home.uri, "show", "person-0001")
    assert code == 1
    many = tmp_path / "ids.txt"
    many.write_text("person-0002\nperson-0003\n\n")
    code, out, err = tapstate("--home", home.uri, "erase", "--from-file", str(many), "--yes")
    assert code == 0
    assert "0 hits" in err
    assert "person-000" not in out + err
    code, out, _ = tapstate("--home", home.uri, "erase", "person-0004", "--event", "e2", "--yes", "-o", "json")
    assert (code, json.loads(out)["users"]) == (0, [])
    assert json.loads(tapstate("--home", home.uri, "show", "person-0004", "-o", "json")[1])["event_count"] == 3
    assert tapstate("--home", home.uri, "erase", "person-0002", "--lift", "-o", "json")[0] == 0
    assert home.erasures.last() == 3
    assert tapstate("--home", home.uri, "erase", "person-0002", "--lift", "--yes", "-o", "json")[0] == 0
    assert home.erasures.last() == 4


def test_wrong_usage(tapstate: Tapstate, home: Home, put: Callable[..., object]) -> None:
    assert tapstate("--home", home.uri, "erase")[0] == 2
    assert tapstate("--home", home.uri, "erase", "a", "b", "--event", "e", "--yes")[0] == 2
    assert tapstate("--home", home.uri, "erase", "--from-file", "missing.txt")[0] == 1
    put(home, ROWS)
    code, out, err = tapstate("--home", home.uri, "erase", "person-001", "--yes", "-o", "json")
    assert (code, out) == (1, "")
    assert "exact" in err
    assert home.erasures.last() == 0
    assert "user-" in tapstate("--home", home.uri, "erase", "person-0001", "--lift", "--yes")[2]


@pytest.mark.slow
def test_prefects_database(
    tapstate: Tapstate, home: Home, put: Callable[..., object], spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night leaves no id and no text there; what somebody's own flow left there goes."""
    put(home, ROWS)
    needles = Erasure(home, [f"person-{u:04}" for u in range(6)]).subjects.needles([])
    environment = {"PREFECT_HOME": str(Path(home.uri) / "prefect"), "PREFECT_API_URL": ""}
    process = spawn("-m", "flows.cli", "--home", home.uri, "refresh", "-o", "json", **environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    database = Path(home.uri) / "prefect" / "prefect.db"
    assert database.is_file()
    found = prove(home, needles)
    assert found.hits
    assert not [hit for hit in found.hits if hit.startswith("prefect/")]
    with sqlite3.connect(database) as base:
        assert base.execute("update flow_run set parameters = ?, name = ?", ('{"user": "person-0001"}', "for person-0001")).rowcount
    base.close()
    assert [hit for hit in prove(home, Erasure(home, ["person-0001"]).subjects.needles([])).hits if hit.startswith("prefect/")]
    code, out, _ = tapstate("--home", home.uri, "erase", "person-0001", "--yes", "-o", "json")
    assert code == 0
    assert {str(Path(home.uri) / "prefect"): 2}.items() <= {f["where"]: f["rows"] for f in json.loads(out)["removed"]}.items()
    with sqlite3.connect(database) as base:
        assert json.loads(base.execute("select parameters from flow_run").fetchone()[0])["user"].startswith("user-")
    base.close()
