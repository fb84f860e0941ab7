"""The HTTP service answers what the client answers, refuses the rest, and never breaks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bundles import AS_OF, USERS, answer, make_bundle
from starlette.testclient import TestClient

from store.live import Live
from store.service import ARROW, Limits, Service


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    shelf = tmp_path_factory.mktemp("bundles")
    make_bundle(shelf / "v1", USERS, erased=["erased"])
    (shelf / "CURRENT").write_text("v1")
    with Live(shelf) as live:
        yield live


@pytest.fixture
def client(live: Live) -> TestClient:
    return TestClient(Service(live).app(), raise_server_exceptions=True)


def test_json_and_arrow_give_the_clients_answer(client: TestClient, live: Live) -> None:
    users = ["u3", "nobody", "erased", "日本"]
    body = {"users": users, "queries": ["two words", "one", "", "two words"], "now": AS_OF}
    wanted = live.bundle.prefix(users, body["queries"], now=AS_OF)  # type: ignore[arg-type]
    assert wanted.prefix[0].tolist() == answer("u3", 2)
    plain = client.post("/prefix", json=body)
    assert plain.status_code == 200
    told = plain.json()
    assert {k: told[k] for k in ("version", "length", "dim", "bundle_id")} == {
        "version": 1, "length": 1, "dim": 2, "bundle_id": live.bundle.bundle_id
    }  # fmt: skip
    assert told["status"] == ["known", "unknown", "erased", "known"]
    assert told["prefix"] == wanted.prefix.tolist()
    arrow = client.post("/prefix", json=body, headers={"accept": ARROW})
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table.column("status").to_pylist() == told["status"]
    assert np.array(table.column("prefix").to_pylist(), np.float32).reshape(4, 1, 2).tolist() == told["prefix"]
    assert table.schema.metadata[b"bundle_id"].decode() == live.bundle.bundle_id
    static = client.post("/prefix", json={"users": ["u3"], "static": True, "now": AS_OF}).json()
    assert (static["prefix"], static["status"]) == ([answer("u3")], ["known"])
    assert client.post("/prefix", json={"users": ["u3"], "static": True}).json()["status"] == ["expired"]


def test_tasks(tmp_path: Path, client: TestClient) -> None:
    """One for all, or one or none for each user; the errors tell which there are."""
    make_bundle(tmp_path / "v1", USERS, tasks=["headline", "rating"])
    (tmp_path / "CURRENT").write_text("v1")
    with Live(tmp_path) as live:
        ours = TestClient(Service(live).app())
        assert ours.get("/healthz").json()["tasks"] == ["headline", "rating"]
        ask = {"users": ["u3", "u4"], "static": True, "now": AS_OF}
        for task, numbers in (("rating", (1, 1)), (["headline", None], (0, -1)), (None, (-1, -1))):
            found = ours.post("/prefix", json={**ask, "task": task}).json()["prefix"]
            assert found == [answer(user, task=number) for user, number in zip(["u3", "u4"], numbers, strict=True)]
        fused = ours.post("/prefix", json={"users": ["u3"], "queries": ["two words"], "now": AS_OF, "task": "rating"}).json()
        assert fused["prefix"] == [answer("u3", 2, task=1)]
        for wrong, said in (
            ("ratings", "headline, rating"), (["rating"], "1 tasks"), (1, "task is a text"), ([1, 2], "task is a text"),
            ([["rating"], None], "task is a text"), ("\ud800", "task is a text"),
        ):  # fmt: skip
            refused = ours.post("/prefix", content=json.dumps({**ask, "task": wrong}))
            assert refused.status_code == 400, refused.text
            assert said in refused.json()["error"]
    assert "tasks" not in client.get("/healthz").json()
    none = client.post("/prefix", json={**ask, "task": "rating"})
    assert (none.status_code, "none" in none.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b"\xff", 400), (b"[" * 100_000, 400), (b'{"users": "u1", "static": true}', 400),
        (b'{"users": ["u1"]}', 400), (b'{"users": ["u1"], "queries": []}', 400), (b'{"users": ["u1"], "queries": [1]}', 400),
        (b'{"users": ["\\ud800"], "static": true}', 400), (b'{"users": ["u1"], "static": 1}', 400),
        (b'{"users": ["u1"], "static": true, "more": 1}', 400), (b'{"users": ["u1"], "static": true, "queries": ["x"]}', 400),
        (b'{"users": ["u1"], "static": true, "now": NaN}', 400), (b'{"users": ["u1"], "static": true, "now": 1e300}', 400),
        (b'{"users": ["u1"], "static": true, "now": true}', 400), (b'{"users": [], "static": true}', 200),
        (b'{"users": [], "queries": []}', 200),
        (json.dumps({"users": ["u"] * 257, "static": True}).encode(), 413), (b" " * (1 << 20) + b"{}", 413),
        (json.dumps({"users": ["u"], "queries": ["x" * 9000]}).encode(), 413),
    ],
)  # fmt: skip
def test_requests_that_are_none(client: TestClient, body: bytes, status: int) -> None:
    found = client.post("/prefix", content=body)
    assert found.status_code == status, found.text
    assert status == 200 or found.json()["error"]


def test_token_rate_and_health(live: Live) -> None:
    service = Service(live, "secret", Limits(per_second=0.5))
    client = TestClient(service.app())
    ask = {"users": ["u1"], "static": True}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}, {"authorization": "Bearer sécret".encode()}):
        assert client.post("/prefix", json=ask, headers=headers).status_code == 401  # type: ignore[arg-type]
        assert client.get("/metrics", headers=headers).status_code == 401  # type: ignore[arg-type]
    good = {"authorization": "Bearer secret"}
    assert client.post("/prefix", json=ask, headers=good).status_code == 200
    late = client.post("/prefix", json=ask, headers=good)
    assert (late.status_code, late.headers["retry-after"]) == (429, "1")
    health = client.get("/healthz").json()
    assert (health["status"], health["version"], health["users"], health["swap_error"]) == ("ok", 1, len(USERS), None)
    assert client.get("/prefix").status_code == 405
    assert client.get("/elsewhere").status_code == 404


def test_metrics(live: Live) -> None:
    client = TestClient(Service(live).app())
    client.post("/prefix", json={"users": ["u1", "nobody"], "static": True, "now": AS_OF})
    client.post("/prefix", content=b"{")
    text = client.get("/metrics").text
    for line in (
        'tapstate_requests_total{path="/prefix",status="200"} 1.0',
        'tapstate_requests_total{path="/prefix",status="400"} 1.0',
        'tapstate_users_total{status="unknown"} 1.0',
        "tapstate_bundle_version 1.0",
        "tapstate_swap_failing 0.0",
    ):
        assert line in text


_anything: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=4), max_leaves=6
)
_texts = st.lists(st.text(st.characters(), max_size=9), max_size=3)


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.fixed_dictionaries(
            {},
            optional={
                **{"users": _texts | _anything, "queries": _texts | _anything, "static": _anything, "now": _anything, "x": _anything},
                "task": _texts | _anything,
            },
        ).map(lambda body: json.dumps(body).encode()),
    )
)
def test_no_body_breaks_it(live: Live, body: bytes) -> None:
    found = TestClient(Service(live).app(), raise_server_exceptions=True).post("/prefix", content=body)
    assert found.status_code in (200, 400, 413)
    assert found.json()
