"""Completion as shells ask for it: real processes, the shell's own variables, and bash itself."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.completion import MOST, rejoined
from schemas.records import VersionRecord
from store.home import Home
from store.lines import Lines
from store.versions import promote

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def stocked(home: Home, put: Callable[..., object], night: Callable[..., VersionRecord]) -> Home:
    """Versions 1 and 2 (production), a line, a head beside its aggregator, and bundles."""
    for n in range(2):
        put(home, [{"user_id": "u", "event_id": str(n), "ts": 1_700_000_000 + n, "text": "t"}], name=f"{n}.jsonl")
        made = night(home)
    promote(home, 2, expected=None, reason="test")
    promote(home, 1, alias="held", expected=None, reason="test")
    Lines(home).open(made.aggregator, home.config.encoder, reason="test")
    home.objects.put(f"models/{'a' * 64}/head.json", b"{}")
    for name in ("v1-aa", "v2-bb", "$(touch owned)"):
        home.objects.put(f"bundles/{name}/manifest.json", b"{}")
    home.objects.put("bundles/CURRENT", b"v2-bb")
    return home


@pytest.fixture
def asked(spawn: Spawn) -> Callable[..., list[str]]:
    """What bash is offered for the last of ``words``; nothing may be said beside it."""

    def run(*words: str, **environment: str) -> list[str]:
        line = "\n".join(["tapstate", *words])
        shell = {"_TAPSTATE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
        process = spawn("-m", "flows.cli", **shell, **environment)
        out, err = process.communicate(timeout=100)
        assert (process.returncode, err) == (0, "")
        return out.split()

    return run


def test_values_of_the_home(stocked: Home, asked: Callable[..., list[str]]) -> None:
    line = stocked.versions.get(1).aggregator[:12]  # type: ignore[union-attr]
    at = ["--home", stocked.uri]
    assert asked(*at, "show", "u", "--version", "") == ["held", "production", "2", "1"]
    assert asked(*at, "diff", "1", "pr") == ["production"]
    assert asked(*at, "rollback", "--alias", "") == ["held", "production"]
    assert asked("refresh", "--line", "", TAPSTATE_HOME=stocked.uri) == ["production", "candidate", line]
    assert asked(*at, "bundle", "--head", "") == ["a" * 64]
    assert asked(*at, "pull", "there", "--name", "") == ["v1-aa", "v2-bb"]
    assert asked("pull", "there", "--from", f"{stocked.uri}/bundles", "--name", "v2") == ["v2-bb"]
    assert asked("train", "--personalizer", "") == ["tide", "pplug", "tapper"]


def test_a_place_as_it_is_typed(stocked: Home, asked: Callable[..., list[str]]) -> None:
    parent, name = os.path.split(stocked.uri)
    assert asked("--home", f"~/{name}", "show", "u", "--version", "", HOME=parent)[-1] == "1"
    assert asked("--home", "=", f'"$THERE/{name}"', "show", "u", "--version", "=", "p", THERE=parent) == ["production"]


@pytest.mark.parametrize(
    "words",
    [
        ["--home", "missing", "show", "u", "--version", ""],
        ["--home", "missing", "show", "--unknown", "u", "--version", ""],
        ["--home", "nowhere://x", "show", "u", "--version", ""],
    ],
)
def test_nothing_is_offered_where_nothing_is(tmp_path: Path, asked: Callable[..., list[str]], words: list[str]) -> None:
    before = set(Path.cwd().iterdir())
    assert asked(*words) == []
    assert set(Path.cwd().iterdir()) == before


def test_damaged_records_are_passed_over(stocked: Home, asked: Callable[..., list[str]]) -> None:
    stocked.objects.put("aliases/production/2.json", b"{")
    assert asked("--home", stocked.uri, "show", "u", "--version", "") == []


@pytest.fixture
def silent() -> Iterator[str]:
    """A store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_store_that_never_answers(silent: str, asked: Callable[..., list[str]]) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    home = "s3://bucket/home"
    assert asked("show", "u", "--version", "", TAPSTATE_HOME=home, AWS_ENDPOINT_URL=silent, AWS_ALLOW_HTTP="true", **keys) == []


def test_nothing_heavy_is_imported(stocked: Home, spawn: Spawn) -> None:
    line = "\n".join(["tapstate", "--home", stocked.uri, "show", "u", "--version", ""])
    shell = {"_TAPSTATE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "6"}
    out, err = spawn("-X", "importtime", "-m", "flows.cli", **shell).communicate()
    imported = {row.rpartition("|")[2].strip().split(".")[0] for row in err.splitlines()}
    assert "production" in out
    assert "obstore" in imported
    assert not imported & {"torch", "lance", "lancedb", "polars", "pyarrow", "numpy", "prefect", "transformers"}


@pytest.mark.parametrize(("shell", "wanted"), [("zsh", '"production":"version 2"'), ("fish", "production\tversion 2")])
def test_other_shells(stocked: Home, spawn: Spawn, shell: str, wanted: str) -> None:
    line = f"tapstate --home {stocked.uri} show u --version p"
    asked = {"_TAPSTATE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    out, err = spawn("-m", "flows.cli", **asked).communicate()
    assert (wanted in out, err) == (True, "")


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_itself(stocked: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "tapstate"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom flows.cli import main\n\nmain()\n")
    program.chmod(0o755)
    script = f"""
source <(_TAPSTATE_COMPLETE=source_bash tapstate)
COMP_WORDS=(tapstate --home = {stocked.uri} show u --version ""); COMP_CWORD=7
_tapstate_completion tapstate
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout.split(), done.stderr) == (["held", "production", "2", "1"], "")


WORD = st.text("ab/-", min_size=1, max_size=4)


@given(st.lists(st.lists(WORD, min_size=1, max_size=3), min_size=1, max_size=5), st.sampled_from("=:"), st.data())
def test_words_that_bash_broke_are_whole_again(words: list[list[str]], sign: str, data: Any) -> None:
    pieces: list[str] = []
    starts = []
    for parts in words:
        starts.append(len(pieces))
        pieces += [piece for part in parts for piece in (part, sign)][:-1]
    whole = [sign.join(parts) for parts in words]
    typed = data.draw(st.integers(0, len(words) - 1))
    assert rejoined("\n".join(pieces), starts[typed]) == ("\n".join(whole), typed)
    assert rejoined("\n".join([*pieces, ""]), len(pieces)) == ("\n".join([*whole, ""]), len(whole))
    assert rejoined("\n".join(pieces), len(pieces)) == ("\n".join(whole), len(whole))


def test_a_screen_at_most(stocked: Home, asked: Callable[..., list[str]]) -> None:
    record = stocked.objects.get("versions/2.json")
    for number in range(3, MOST + 50):
        stocked.objects.put(f"versions/{number}.json", record or b"")
    found = asked("--home", stocked.uri, "show", "u", "--version", "")
    assert (len(found), found[:3]) == (MOST, ["held", "production", str(MOST + 49)])
    assert asked("--home", stocked.uri, "show", "u", "--version", "1")[-1] == "1"
