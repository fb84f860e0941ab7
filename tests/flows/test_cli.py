"""The command line: JSON alone on standard output, exit codes as told, messages that name the mending command."""

import gzip
import json
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from schemas.errors import ConflictError
from schemas.records import VersionRecord
from store.home import Home
from store.pseudonyms import Pseudonyms
from store.versions import promote

Spawn = Callable[..., subprocess.Popen[str]]
INGEST = {"read", "accepted", "duplicate", "corrected", "rejected"}
VERSIONS = {"version", "aliases", "created_at", "aggregator", "encoder", "users", "events", "parent"}


Tapstate = Callable[..., tuple[int, str, str]]


def lines(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_init_and_ingest(tapstate: Tapstate, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    code, out, err = tapstate("--home", home, "init", "--encoder", "some/model", "--output", "json")
    made = json.loads(out)
    assert (code, made["created"], made["home"]) == (0, True, home)
    code, out, err = tapstate("--home", home, "init", "--output", "json")
    assert (code, json.loads(out)) == (0, {**made, "created": False})
    assert "already" in err
    assert Home(home).config.encoder.model == "some/model"
    file = lines(tmp_path / "e.jsonl", {"who": "u", "when": 1_700_000_000, "what": "x"}, {"who": "", "when": 1, "what": "y"})
    mapping = ["--map", "user_id=who", "--map", "ts=when", "--map", "text=what"]
    code, out, err = tapstate("--home", home, "ingest", "table", file, *mapping, "-o", "json")
    assert (code, json.loads(out)) == (0, {"read": 2, "accepted": 1, "duplicate": 0, "corrected": 0, "rejected": 1})
    assert "user_id is missing" in err
    code, out, err = tapstate("--home", home, "ingest", "table", file, *mapping)
    assert code == 0
    assert "duplicate" in out


def test_damaged_input_is_done_but_told(tapstate: Tapstate, home: Home, tmp_path: Path) -> None:
    row = json.dumps({"user_id": "u", "ts": 1_700_000_000, "text": "x"}) + "\n"
    path = tmp_path / "odd [name].jsonl.gz"
    path.write_bytes(gzip.compress((row * 3 + "".join(f"{i * 7919 % 99991}" for i in range(5000))).encode())[:-2000])
    code, out, err = tapstate("--home", home.uri, "ingest", "table", str(path).replace("[", "[[]"), "-o", "json")
    counts = json.loads(out)
    assert code == 3
    assert set(counts) == INGEST
    assert counts["read"] == counts["accepted"] + counts["duplicate"] + counts["corrected"] + counts["rejected"]
    assert counts["accepted"] == 1
    assert "odd [name].jsonl.gz" in err.replace("\n", "")


def test_versions_and_show(tapstate: Tapstate, home: Home, put: Callable[..., object], night: Callable[..., VersionRecord]) -> None:
    assert tapstate("--home", home.uri, "versions", "-o", "json")[:2] == (0, "[]\n")
    put(home, [{"user_id": "[/b]'x", "ts": 1_700_000_000 + i, "text": f"t {i}"} for i in range(7)])
    first = night(home)
    put(home, [{"user_id": "v", "ts": 1_700_000_000, "text": "t"}])
    night(home)
    promote(home, 1, expected=None, reason="test")
    code, out, _ = tapstate("--home", home.uri, "versions", "-o", "json")
    found = json.loads(out)
    assert code == 0
    assert [set(row) for row in found] == [VERSIONS] * 2
    assert [(r["version"], r["aliases"], r["users"], r["events"], r["parent"]) for r in found] == [
        (1, ["production"], 1, 7, None), (2, [], 2, 8, 1)
    ]  # fmt: skip
    assert (found[0]["aggregator"], found[0]["encoder"]) == (first.aggregator, first.encoder)
    code, out, _ = tapstate("--home", home.uri, "show", "[/b]'x", "-o", "json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["user_id"], shown["event_count"], shown["version"]) == ("[/b]'x", 7, 1)
    assert shown["state"]["slot_sum"]["shape"] == "4×16"
    assert len(shown["state"]["window_time"]["values"]) == 5
    code, out, _ = tapstate("--home", home.uri, "show", "[/b]'x")
    assert (code, "[/b]'x" in out) == (0, True)
    code, out, err = tapstate("--home", home.uri, "show", "v")
    assert (code, out) == (1, "")
    assert "no user 'v' at version 1" in err
    assert tapstate("--home", home.uri, "show", "v", "--version", "2", "-o", "json")[0] == 0
    code, _, err = tapstate("--home", home.uri, "show", "[/b]", "--version", "2")
    assert code == 1
    assert "no user '[/b]'" in err
    assert "tapstate versions" in err
    assert tapstate("--home", home.uri, "show", "v", "--version", "9")[0] == 1


@pytest.mark.parametrize("command", [["versions"], ["show", "u"], ["ingest", "table", "x.csv"], ["refresh"], ["train"], ["bundle"]])
def test_an_unknown_home_names_the_mending_command(tapstate: Tapstate, tmp_path: Path, command: list[str]) -> None:
    missing = str(tmp_path / "no [such] home")
    code, out, err = tapstate("--home", missing, *command)
    assert (code, out) == (1, "")
    assert f"tapstate --home {shlex.quote(missing)} init" in err
    assert not Path(missing).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["refersh"], "refersh"),
        (["ingest", "tabel", "x"], "tabel"),
        (["show"], "argument"),
        (["versions", "--output", "xml"], "xml"),
        (["ingest", "table", "x.csv", "--map", "user_id"], "FIELD=VALUE"),
        (["ingest", "table", "x.csv", "--map", "user=name"], "no field is named 'user'"),
    ],
)
def test_wrong_usage(tapstate: Tapstate, home: Home, arguments: list[str], said: str) -> None:
    code, out, err = tapstate("--home", home.uri, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_failures_have_their_exit_codes(tapstate: Tapstate, home: Home, tmp_path: Path) -> None:
    code, out, err = tapstate("--home", home.uri, "ingest", "table", str(tmp_path / "missing.csv"), "-o", "json")
    assert (code, out) == (1, "")
    assert "missing.csv" in err
    code, out, err = tapstate("--home", home.uri, "bundle")
    assert (code, out) == (1, "")
    assert "tapstate refresh" in err
    config = Path(home.uri) / "config.toml"
    config.write_text(config.read_text() + "\n[encodr]\nmodel = 'x'\n")
    code, out, err = tapstate("--home", home.uri, "train", "--steps", "1")
    assert (code, out) == (2, "")
    assert "encodr" in err


def test_a_conflict_leaves_with_its_own_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lose() -> None:
        raise ConflictError("another [refresh] made version 3", mend="tapstate refresh")

    monkeypatch.setattr(cli, "app", lose)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 4
    assert "another [refresh] made version 3" in capsys.readouterr().err


def test_a_real_process(spawn: Spawn, tmp_path: Path) -> None:
    process = spawn("-m", "flows.cli", "versions", TAPSTATE_HOME=str(tmp_path / "none"))
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert "init" in err
    assert "Traceback" not in err


def test_reading_commands_start_without_heavy_machinery(spawn: Spawn, home: Home) -> None:
    code = f"""
import sys
sys.argv = ["tapstate", "--home", {home.uri!r}, "versions", "-o", "json"]
from flows.cli import main
try:
    main()
except SystemExit:
    pass
print(sorted({{"torch", "prefect", "apache_beam", "transformers"}} & set(sys.modules)))
"""
    out, err = spawn("-c", code).communicate()
    assert out == "[]\n[]\n", err


def test_versions_compared_moved_and_put_back(
    tapstate: Tapstate, place: str, new_home: Callable[..., Home], put: Callable[..., object], night: Callable[..., VersionRecord]
) -> None:
    """On a local directory and on an S3-type store."""
    home = new_home(place)
    where = ("--home", home.uri)

    def told(*arguments: str) -> Any:
        code, out, err = tapstate(*where, *arguments, "-o", "json")
        assert code == 0, err
        return json.loads(out)

    put(home, [{"user_id": f"u{n}", "ts": 1_700_000_000 + n, "text": f"t {n}"} for n in range(9)])
    first = night(home)
    put(home, [{"user_id": user, "ts": 1_700_090_000, "text": "other"} for user in ("u1", "new [b]")])
    night(home)
    found = told("diff", "1", "2")
    assert (found["before"], found["after"], found["one_line"], found["moved"]) == (1, 2, True, 1)
    assert found["users"] == {"before": 9, "after": 10, "appeared": 1, "vanished": 0}
    assert [(m["user_id"], m["events_before"], m["events_after"]) for m in found["movers"]] == [("u1", 1, 2)]
    assert found["cosine_shift"]["max"] == pytest.approx(found["movers"][0]["shift"], abs=1e-6)
    assert found["panel"]["users"] == 9
    told_rows = told("history", "u1")
    assert [(r["version"], r["events"], r["line"]) for r in told_rows] == [(1, 1, first.aggregator), (2, 2, first.aggregator)]
    assert [r["version"] for r in told("history", "u2")] == [1]
    assert [r["changed"] for r in told("history", "u2", "--all")] == [True, False]
    moved = told("promote", "1", "--reason", "first")
    assert (moved["alias"], moved["version"], moved["before"], moved["reason"]) == ("production", 1, None, "first")
    assert told("promote", "2", "--reason", "better", "--expect", "1")["before"] == 1
    moment = datetime.now(UTC).isoformat()
    code, out, err = tapstate(*where, "promote", "1", "--reason", "late", "--expect", "1")
    assert (code, out) == (4, "")
    assert "production names version 2, not 1, moved by" in err
    assert ": better" in err
    assert told("rollback", "--reason", "worse")["version"] == 1
    assert [(m["from"], m["to"], m["rollback"], m["reason"]) for m in told("versions", "--moves")] == [
        (None, 1, False, "first"), (1, 2, False, "better"), (2, 1, True, "worse")
    ]  # fmt: skip
    assert told("show", "u1")["version"] == 1
    assert told("show", "u1", "--version", moment)["version"] == 2
    assert told("lines")[0] | {"line": first.aggregator, "role": "production", "versions": 2, "newest": 2} == told("lines")[0]
    for command in (["diff", "1", "2"], ["history", "u1"], ["versions", "--moves"], ["lines"]):
        code, out, _ = tapstate(*where, *command)
        assert code == 0
        assert max(map(len, out.splitlines())) <= 200
    for command, said in (
        (["diff", "1", "7"], "no version, alias or moment '7'"),
        (["history", "nobody"], "no version holds a user 'nobody'"),
        (["rollback", "--reason", "x", "--alias", "gone"], "there is no alias 'gone'"),
        (["rollback", "--reason", "x"], "has named no version before 1"),
        (["refresh", "--line", "candidate"], "no candidate line"),
        (["lines", "--use", first.aggregator[:6]], "--use needs a reason"),
    ):
        code, out, err = tapstate(*where, *command)
        assert (code != 0, out) == (True, "")
        assert said in err.replace("\n", " ")
        assert "mend" in err


def test_questions_to_the_tables(
    tapstate: Tapstate, home: Home, put: Callable[..., object], night: Callable[..., object], tmp_path: Path
) -> None:
    put(home, [{"user_id": f"u{n % 60}", "event_id": str(n), "ts": 1_700_000_000 + n, "text": f"[bold]{n}"} for n in range(70)])
    night(home)
    at = ("--home", home.uri)
    code, out, err = tapstate(*at, "sql", "SELECT user_id, event_count, slot_mass FROM states@1 ORDER BY user_id", "--output", "json")
    found = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (code, len(found), found[0]["user_id"], found[0]["event_count"]) == (0, 60, "u0", 2)
    code, out, err = tapstate(*at, "sql", "SELECT text FROM events ORDER BY ts LIMIT 60")
    assert (code, "[bold]0" in out) == (0, True)
    assert "the first 50 rows" in err
    code, out, err = tapstate(*at, "sql", "SELECT user_id FROM states", "--to", str(tmp_path / "a" / "b.parquet"), "-o", "json")
    assert (code, json.loads(out)) == (0, {"file": str(tmp_path / "a" / "b.parquet"), "rows": 60})
    code, out, err = tapstate(*at, "sql", "DROP TABLE states")
    assert (code, out) == (1, "")
    assert "mend: tapstate sql" in err
    code, out, err = tapstate(*at, "similar", "u1", "--top", "3", "--output", "json")
    assert (code, [set(row) for row in json.loads(out)]) == (0, [{"user_id", "cosine", "event_count"}] * 3)
    code, out, err = tapstate(*at, "export", str(tmp_path / "events.parquet"), "--table", "events", "-o", "json")
    assert (code, json.loads(out)["rows"]) == (0, 70)
    code, out, err = tapstate(*at, "export", str(tmp_path / "events.parquet"))
    assert (code, "there already" in err) == (1, True)
    code, _, err = tapstate(*at, "export", str(tmp_path / "old.parquet"), "--table", "events", "--version", "1")
    assert (code, "events are current" in err) == (2, True)
    code, out, err = tapstate(*at, "export", str(tmp_path / "events.csv"))
    assert code == 1
    assert "only Parquet" in err


def test_a_pipe_gets_whole_rows(shown_home: Home, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    process = spawn("-m", "flows.cli", "--home", shown_home.uri, "sql", "SELECT * FROM events ORDER BY ts LIMIT 3")
    out, _ = process.communicate(timeout=120)
    rows = [line for line in out.splitlines() if "alice" in line or "gone" in line or "script" in line]
    assert len(rows) == 3
    assert "value" in out


def test_a_package_that_is_not_installed_is_named(home: Home, spawn: Spawn) -> None:
    """As where only what reads versions is installed."""
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['tapstate', 'train']; from flows.cli import main; main()"
    process = spawn("-c", code, TAPSTATE_HOME=home.uri)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "this needs torch, which is not installed" in err
    assert "mend: pip install" in err
    assert "Traceback" not in err


def test_a_pseudonym_leads_to_its_user(tapstate: Tapstate, home: Home, put: Callable[..., object], night: Callable[..., object]) -> None:
    put(home, [{"user_id": user, "ts": 1_700_000_000, "text": "t"} for user in ("a[b]", "c")])
    night(home)
    name, at = Pseudonyms(home).name("a[b]"), ("--home", home.uri)
    for command, *more in (["show"], ["show", "--version", "1"], ["history"], ["similar"]):
        plain = tapstate(*at, command, "a[b]", *more, "-o", "json")
        code, out, err = tapstate(*at, command, name, *more, "-o", "json")
        assert (code, out) == plain[:2]
        assert (code, json.loads(out) != [], err) == (0, True, f"{name} is a[b]\n")
    for command in ("show", "history", "similar"):
        code, out, err = tapstate(*at, command, "user-0123456789ab")
        assert (code, out) == (1, "")
        assert "no user of version 1 bears the pseudonym user-0123456789ab" in err
    # Nobody is erased by pseudonym.
    code, out, err = tapstate(*at, "erase", name, "-o", "json")
    assert (code, json.loads(out)["found"]) == (0, [])
    assert f"{name} is taken as an id, not as a pseudonym" in err
    code, _, err = tapstate(*at, "erase", name, "--yes")
    assert (code, "the home holds nothing of them" in err, home.erasures.last()) == (1, True, 0)
    # Somebody of that very id comes first.
    put(home, [{"user_id": name, "ts": 1_700_000_000, "text": "t"}], name="more.jsonl")
    night(home)
    code, out, err = tapstate(*at, "show", name, "-o", "json")
    assert (code, json.loads(out)["user_id"], err) == (0, name, "")
