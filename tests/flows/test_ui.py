"""The console without a browser: what its guard lets pass, what its pages say, what it refuses to write."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from nicegui import ui
from nicegui.testing import User
from nicegui.testing.user_simulation import user_simulation
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.commands.ui import ui as command
from flows.ui.app import register
from flows.ui.frame import Console, address, shown
from flows.ui.guard import FORM, Guard
from flows.ui.moves import move
from flows.ui.slots import half_life
from schemas.errors import ConfigError, ConflictError, InputError
from store.history import user_history
from store.home import Home
from store.provenance import who
from store.pseudonyms import Pseudonyms
from store.pull import pull
from store.snapshot import Snapshot
from store.versions import current, promote, rollback

#: Tenths of a second to wait for what a page shows.
PATIENCE = 600


async def _secret(request: Request) -> PlainTextResponse:
    return PlainTextResponse("secret")


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("secret")
    await socket.close()


INNER = Starlette(routes=[Route("/", _secret), Route("/login", _secret), WebSocketRoute("/ws", _socket)])


def guarded(token: str | None, host: str = "localhost:8766") -> TestClient:
    return TestClient(Guard(INNER, token), base_url=f"http://{host}", follow_redirects=False)


def heard(client: TestClient, **headers: str) -> str:
    with client.websocket_connect(f"ws://{client.base_url.netloc.decode()}/ws", headers=headers) as socket:
        return socket.receive_text()


def test_a_token_guards_every_route() -> None:
    client = guarded("s3cret", "console.example")
    assert client.get("/").status_code == 401
    assert client.get("/login").text != "secret"
    assert client.get("/", headers={"accept": "text/html"}).headers["location"] == "/login"
    with pytest.raises(WebSocketDisconnect):
        heard(client)
    for wrong in ({"authorization": "Bearer wrong"}, {"authorization": "s3cret"}, {"cookie": "tapstate=s3cret"}, {"cookie": "tapstate="}):
        assert client.get("/", headers=wrong).status_code == 401
    assert client.get("/", headers={"authorization": "Bearer s3cret"}).text == "secret"
    refused = client.post("/login", data={"token": "wrong"})
    assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)
    taken = client.post("/login", data={"token": "s3cret"})
    assert (taken.status_code, taken.headers["location"]) == (303, "/")
    assert all(word in taken.headers["set-cookie"].lower() for word in ("httponly", "samesite=strict"))
    assert "s3cret" not in taken.headers["set-cookie"]
    answer = client.get("/")
    assert (answer.text, heard(client)) == ("secret", "secret")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    # A cookie does not help a page of another origin.
    assert client.get("/", headers={"origin": "http://evil.example"}).status_code == 403
    with pytest.raises(WebSocketDisconnect):
        heard(client, origin="http://evil.example")
    assert heard(client, origin="http://console.example") == "secret"


def test_signing_in_is_limited() -> None:
    client = guarded("s3cret")
    assert client.post("/login", content=b"token=" + b"x" * FORM).status_code == 413
    assert [client.post("/login", data={"token": str(n)}).status_code for n in range(20)].count(429) >= 15


def test_without_a_token_only_names_of_this_machine() -> None:
    for host in ("localhost:8766", "127.0.0.1:8766", "[::1]:8766", "localhost"):
        assert (guarded(None, host).get("/").text, heard(guarded(None, host))) == ("secret", "secret")
    for host in ("evil.example:8766", "127.0.0.1.evil.example", "evil.example"):
        assert guarded(None, host).get("/").status_code == 403
        with pytest.raises(WebSocketDisconnect):
            heard(guarded(None, host))


@pytest.mark.parametrize(("options", "match"), [({"host": "0.0.0.0"}, "could read"), ({"write": True}, "could move production")])
def test_no_token_no_strangers_and_no_writing(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], match: str) -> None:
    monkeypatch.delenv("TAPSTATE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=match):
        command(**{"host": "127.0.0.1", "port": 1, "write": False, "token_env": "TAPSTATE_TOKEN", **options})


def test_moves_are_refused(shown_home: Home) -> None:
    def back(home: Home, reason: str) -> Any:
        return rollback(home, expected=2, reason=reason)

    with pytest.raises(ConfigError, match="only reads"):
        move(Console(shown_home.uri), back, "because")
    may = Console(shown_home.uri, write=True)
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(InputError, match="reason"):
            move(may, back, reason)
    promote(shown_home, 3, expected=2, reason="meanwhile")
    with pytest.raises(ConflictError, match="names version 3, not 2"):
        move(may, back, "because")
    assert current(shown_home, "production") == 3
    assert move(may, lambda home, reason: rollback(home, expected=3, reason=reason), " odd ").reason == "odd"
    assert current(shown_home, "production") == 2


def visit(console: Console, walk: Callable[[User], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with user_simulation() as user:
            register(console)
            await walk(user)

    asyncio.run(run())


def rows(user: User, mark: str) -> list[dict[str, Any]]:
    (table,) = user.find(kind=ui.table, marker=mark).elements
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in table.rows]


def test_pages_say_what_the_home_holds(shown_home: Home, script: str, tmp_path: Path) -> None:
    pulled = pull(f"{shown_home.uri}/bundles", tmp_path / "pulled", by="<b>shop</b>")

    async def walk(user: User) -> None:
        async def opened(path: str, mark: str) -> list[dict[str, Any]]:
            await user.open(path)
            await user.should_see(marker=mark, retries=PATIENCE)
            return rows(user, mark)

        versions = await opened("/", "versions")
        assert [(r["version"], r["aliases"]) for r in versions] == [("3", ""), ("2", "production"), ("1", "")]
        records = {record.number: record for record in shown_home.versions.all()}
        assert versions[0]["new"] == shown(records[3].events_new)
        # As the erasure left it.
        assert (versions[2]["users"], versions[2]["events"]) == ("2", "8")
        checks = await opened("/version/3", "checks")
        assert [r["check"] for r in checks] == [c.name for c in records[3].checks]
        await user.should_see("None is stored. Make it with: tapstate report 3", retries=PATIENCE)
        await user.open("/version/9")
        await user.should_see("no version 9", retries=PATIENCE)
        history = await opened(f"/user?id={quote(script)}", "history")
        entries = {str(e.version): e for e in user_history(shown_home, script)}
        assert [(r["version"], r["events"], r["shift"]) for r in history] == [
            (n, shown(entries[n].events), shown(entries[n].shift)) for n in "321"
        ]
        await user.should_see(Pseudonyms(shown_home).name(script), retries=PATIENCE)
        await user.should_see(marker="events", retries=PATIENCE)
        events = rows(user, "events")
        assert len(events) == 8
        assert sum(float(r["weight"].split()[0]) for r in events) == pytest.approx(100, abs=0.05)
        assert sum(r["window"] == "yes" for r in events) == 5
        user.find(marker="find").click()
        await user.should_see(marker="nearest", retries=PATIENCE)
        (like,) = rows(user, "nearest")
        (alike,) = Snapshot.of(shown_home).similar(script).to_dicts()
        assert like == {"user": "alice", "cosine": shown(alike["cosine"]), "events": "8"}
        named = Pseudonyms(shown_home).name(script)
        assert await opened(f"/user?id={named}&version=3", "history") == history
        await user.should_see(f"{named} in logs, reports and receipts", retries=PATIENCE)
        await user.should_see(script, retries=PATIENCE)
        await user.open("/user?id=user-0123456789ab")
        await user.should_see("no user of version 2 bears the pseudonym user-0123456789ab", retries=PATIENCE)
        await user.open("/user?id=gone")
        await user.should_see("no version holds a user 'gone'", retries=PATIENCE)
        nights = await opened("/nights", "nights")
        assert [r["version"] for r in nights] == ["3", "2", "1"]
        await user.should_see("Nothing is running.", retries=PATIENCE)
        first = await opened("/rejects?ingest=3", "rejects")
        await user.should_see(marker="next", retries=PATIENCE)
        assert (len(first), {r["reason"] for r in first}) == (50, {"unreadable ts"})
        assert len(await opened("/rejects?ingest=3&start=50", "rejects")) == 10
        assert [(r["bundle"], r["serving"]) for r in await opened("/bundles", "bundles")] == [("v2", "CURRENT")]
        (row,) = rows(user, "pulls")
        assert (row["by"], row["bundle"], row["fetched"], row["MB"]) == (
            who("<b>shop</b>"),
            "v2",
            "v2",
            shown(round(pulled.bytes / 1e6, 2)),
        )
        await user.open("/erasures")
        await user.should_see("proven", retries=PATIENCE)
        await user.should_not_see("gone")

    visit(Console(shown_home.uri), walk)


def test_plain_words() -> None:
    assert [shown(v) for v in (None, True, 1234, 0.123456, float("inf"), [1, 2])] == ["–", "yes", "1,234", "0.1235", "inf", "1, 2"]
    assert [half_life(s) for s in (float("inf"), 30.0, 7200.0, 86_400.0 * 3)] == ["never decays", "30 seconds", "2 hours", "3 days"]
    assert address("/user", id="a b&c=<d>", version=None) == "/user?id=a%20b%26c%3D%3Cd%3E"
