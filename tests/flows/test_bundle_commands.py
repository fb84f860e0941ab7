"""``tapstate bundle verify``, ``bundle diff``, ``pull`` and ``serve``, as a serving team runs them."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from small_bundles import AS_OF, USERS, answer, make_bundle

from flows.commands.serve import serve
from schemas.errors import ConfigError
from store.client import Bundle
from store.differences import differences
from store.home import Home
from store.provenance import who

Spawn = Callable[..., subprocess.Popen[str]]


def told(spawn: Spawn, *arguments: str, code: int = 0) -> dict[str, object]:
    out, err = spawn("-m", "flows.cli", *arguments, "--output", "json").communicate()
    assert "Traceback" not in err
    if code:
        return {"error": err}
    return dict(json.loads(out))


@pytest.mark.slow
def test_verify_pull_and_diff(tmp_path: Path, spawn: Spawn) -> None:
    source, target = tmp_path / "source", str(tmp_path / "target")
    base = make_bundle(source / "v1", USERS)
    make_bundle(source / "v2", ["u3", "u50"], version=2, shift=1, base=base, gone=["u6"], erased=["u5"], total=22)
    (source / "CURRENT").write_text("v2")
    pulled = told(spawn, "pull", target, "--from", str(source))
    assert pulled["fetched"] == ["v2", "v1"]
    verified = told(spawn, "bundle", "verify", target)
    assert {k: verified[k] for k in ("version", "layers", "whole")} == {"version": 2, "layers": 2, "whole": True}
    found = differences(Bundle.open(source / "v1"), Bundle.open(target))
    assert {k: found[k] for k in ("appeared", "vanished", "erased", "changed", "same")} == {
        "appeared": 1, "vanished": 2, "erased": 1, "changed": 1, "same": len(USERS) - 3
    }  # fmt: skip
    assert found["model"] == ["version"]
    again = differences(Bundle.open(source / "v1"), Bundle.open(source / "v1"))
    assert (again["same"], again["changed"], again["model"]) == (len(USERS), 0, [])
    assert told(spawn, "bundle", "diff", str(source / "v1"), target) == found
    path = tmp_path / "target/v1/states/00000.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "00000.arrow" in str(told(spawn, "bundle", "verify", target, code=1)["error"])


def test_who_pulled(tapstate: Callable[..., tuple[int, str, str]], home: Home, tmp_path: Path) -> None:
    make_bundle(Path(home.uri) / "bundles/v1", USERS)
    home.objects.put("bundles/CURRENT", b"v1")
    at = ("--home", home.uri)
    assert tapstate(*at, "bundle", "pulls", "-o", "json")[:2] == (0, "[]\n")
    code, out, err = tapstate(*at, "pull", str(tmp_path / "a"), "--as", "shop", "-o", "json")
    pulled = json.loads(out)
    assert (code, pulled["recorded"], err) == (0, True, "")
    code, out, err = tapstate(*at, "bundle", "pulls", "-o", "json")
    (record,) = json.loads(out)
    assert (record["created_by"], record["fetched"], record["bytes"]) == (who("shop"), ["v1"], pulled["bytes"])
    assert set(record) == {"created_at", "created_by", "bundle", "bundle_id", "version", "fetched", "bytes"}
    code, out, err = tapstate(*at, "bundle", "pulls")
    assert (code, who("shop") in out) == (0, True)
    code, out, err = tapstate("pull", str(tmp_path / "b"), "--from", str(tmp_path / "a"), "-o", "json")
    assert (code, json.loads(out)["recorded"]) == (0, False)
    assert "not recorded: this is no home's shelf" in err
    assert tapstate(*at, "pull", str(tmp_path / "c"), "--as", "")[0] == 2


@pytest.mark.slow
def test_serve(tmp_path: Path, spawn: Spawn) -> None:
    """A real server on loopback answers, follows CURRENT, and asks for its token."""
    for version in (1, 2):
        make_bundle(tmp_path / f"v{version}", USERS, version=version, shift=10 * version)
    (tmp_path / "CURRENT").write_text("v1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = spawn("-m", "flows.cli", "serve", str(tmp_path), "--port", str(port), "--every", "0.05", TAPSTATE_TOKEN="secret")
    address = f"http://127.0.0.1:{port}"

    def ask(token: str = "secret") -> dict[str, object]:
        body = json.dumps({"users": ["u3"], "static": True, "now": AS_OF}).encode()
        request = urllib.request.Request(f"{address}/prefix", body, {"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.load(response))

    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=30).close()
            break
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, server.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert ask()["prefix"] == [answer("u3", 0, 10)]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask("wrong")
    (tmp_path / "CURRENT.new").write_text("v2")
    (tmp_path / "CURRENT.new").rename(tmp_path / "CURRENT")
    while ask()["version"] != 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ask()["prefix"] == [answer("u3", 0, 20)]


def test_no_token_no_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPSTATE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="anyone"):
        serve("nowhere", host="0.0.0.0", token_env="TAPSTATE_TOKEN")
