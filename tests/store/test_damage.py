"""What can happen to a home from outside: full disk, no permission, damaged files. Each is said clearly, with what mends it."""

import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoders.checkpoint import load_aggregator
from schemas.errors import CorruptError, HomeError, NotFoundError, TapstateError
from store.home import Home
from store.models import Models
from store.states import States
from store.versions import resolve

Spawn = Callable[..., subprocess.Popen[str]]
Night = Callable[..., Any]
ROWS = [{"user_id": f"u{n}", "event_id": str(n), "ts": 1_700_000_000 + n, "text": f"t{n}"} for n in range(8)]


@pytest.fixture
def used(home: Home, put: Any, night: Night) -> Home:
    put(home, ROWS)
    night(home)
    return home


def read(home: Home) -> Any:
    version = resolve(home)
    return States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs)


def table(home: Home) -> Path:
    version = resolve(home)
    name = States(home, version.aggregator, Models(home).spec(version.aggregator)).name
    return Path(home.uri, "lance", f"{name}.lance")


@pytest.mark.parametrize("damage", ["garbage", "empty", "gone"])
@pytest.mark.parametrize("part", ["_versions", "data"])
def test_a_damaged_table_is_named(used: Home, put: Any, night: Night, part: str, damage: str) -> None:
    place, whole = table(used), read(used)
    assert whole.num_rows == 8
    files = [path for path in (place / part).iterdir() if path.suffix in (".manifest", ".lance")]
    assert files
    for path in files:
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"garbage" * 40 if damage == "garbage" else b"")
    put(used, [{**ROWS[0], "event_id": "new"}])
    for attempt in (lambda: read(used), lambda: night(used)):
        with pytest.raises(CorruptError, match=f"table {place.stem} is damaged") as wrong:
            attempt()
        assert "backup" in wrong.value.mend
        assert len(str(wrong.value)) < 1_000


@pytest.mark.parametrize("ledger", ["ingests", "versions", "aliases/production"])
@pytest.mark.parametrize("damage", [b"", b"{", b'{"number": 1}', None])
def test_a_damaged_record_is_named(used: Home, ledger: str, damage: bytes | None) -> None:
    from store.versions import current, promote

    promote(used, 1, expected=None, reason="test")
    used.objects.put(f"{ledger}/3.json", (Path(used.uri) / ledger / "1.json").read_bytes())
    path = Path(used.uri) / ledger / ("2.json" if damage is None else "1.json")
    if damage is not None:
        path.write_bytes(damage)
    fresh = Home(used.uri)
    book = {"ingests": fresh.ingests, "versions": fresh.versions}.get(ledger) or fresh.aliases("production")
    with pytest.raises(CorruptError, match=r"number 1|not a valid record|record 2 is missing") as wrong:
        book.all()
    assert f"{used.uri}/{ledger}" in wrong.value.where
    assert "backup" in wrong.value.mend
    with pytest.raises(TapstateError):
        current(fresh, "production") if ledger.startswith("aliases") else book.range(0, 3)


def test_a_damaged_checkpoint_is_named(used: Home) -> None:
    folder = Path(used.uri) / "models" / resolve(used).aggregator
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(CorruptError, match="checkpoint's bytes have hash") as wrong:
        load_aggregator(folder)
    assert "tapstate train" in wrong.value.mend


def test_what_is_not_there_is_named(used: Home, tmp_path: Path) -> None:
    for wrong in (9, "candidate"):
        with pytest.raises(NotFoundError) as error:
            resolve(used, wrong)
        assert "tapstate versions" in error.value.mend
    with pytest.raises(HomeError, match="init"):
        Home(str(tmp_path / "elsewhere"))


FULL = """
import resource, signal, sys
from pipelines.ingest import ingest
from pipelines.sources.table import TableSource
from schemas.errors import TapstateError
from store.home import Home
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
home = Home(sys.argv[1])
source = TableSource([sys.argv[2]])
import pipelines.ingest as module
real = module._commit
def commit(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return real(*arguments)
module._commit = commit
try:
    ingest(home, source)
except TapstateError as error:
    print(type(error).__name__, error.what, "mend:", error.mend)
"""


def test_a_full_disk_is_said_and_nothing_counts(used: Home, tmp_path: Path, spawn: Spawn, put: Any) -> None:
    """No file may grow past 20 kB: the same message as a disk without space, and the next run finds everything whole."""
    assert resource.RLIMIT_FSIZE
    rows = tmp_path / "many.csv"
    rows.write_text("user_id,event_id,ts,text\n" + "".join(f"v{n},{n},{1_700_000_000 + n},{os.urandom(16).hex()}\n" for n in range(3_000)))
    process = spawn("-c", FULL, used.uri, str(rows), PYTHONPATH=str(Path(__file__).parents[2]))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.startswith("HomeError cannot"), out + err
    assert "no space left" in out
    assert "free space" in out
    assert Home(used.uri).ingests.last() == 1
    assert put(used, ROWS).duplicate == 8
    assert read(used).num_rows == 8


READ_ONLY = """
import sys
from pipelines.ingest import ingest
from pipelines.sources.table import TableSource
from schemas.errors import TapstateError
from store.home import Home, provenance
from store.states import States
from store.models import Models
from store.versions import resolve
home = Home(sys.argv[1])
version = resolve(home)
provenance()
print(States(home, version.aggregator, Models(home).spec(version.aggregator)).read(version.runs).num_rows)
try:
    ingest(home, TableSource([sys.argv[2]]))
except TapstateError as error:
    print(type(error).__name__, error)
"""


def test_a_read_only_home_is_read_and_not_written(used: Home, tmp_path: Path, spawn: Spawn) -> None:
    rows = tmp_path / "one.csv"
    rows.write_text("user_id,event_id,ts,text\nv,1,1700000000,x\n")
    for path in [Path(used.uri), *Path(used.uri).rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    # Root may write anywhere; nobody (65534) may not. The interpreter's own files must be readable to them.
    drop = "import os\nif os.getuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    for parent in [Path(used.uri), *Path(used.uri).parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    code = READ_ONLY.replace("provenance()\n", "provenance()\n" + drop, 1)
    process = spawn("-c", code, used.uri, str(rows), PYTHONPATH=str(Path(__file__).parents[2]))
    out, err = process.communicate()
    for path in [Path(used.uri), *Path(used.uri).rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert lines[0] == "8"
    assert lines[1].startswith("HomeError cannot")
    assert "ermission" in lines[1]
    assert any(line.strip().startswith("mend: check permissions") for line in lines)
