"""A small HTTP service over the client: ``POST /prefix``, ``GET /healthz``, ``GET /metrics``.

It answers from one bundle a request, swaps when ``CURRENT`` moves, and refuses what is too large, too fast or unknown
before any work is done for it. Needs the extra ``tapstate[serve]`` and nothing of the pipeline.
"""

import hmac
import json
import math
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from schemas.errors import InputError, TapstateError
from store.client import Answer, Bundle
from store.live import Live

ARROW = "application/vnd.apache.arrow.stream"
_FIELDS = {"users", "queries", "static", "now", "task"}
#: Seconds since 1970 that a query can come at: 1970 to 9999.
_TIMES = (0, 253_402_300_800)


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for.

    Attributes:
        body_bytes: of one request.
        users: in one request.
        query_chars: of one query.
        per_second: requests, over all callers; bursts of two seconds' worth pass.
    """

    body_bytes: int = 1 << 20
    users: int = 256
    query_chars: int = 8_192
    per_second: float = 1_000.0


class RefusedError(Exception):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers


class Bucket:
    """A token bucket: ``rate`` a second, at most two seconds' worth at once."""

    def __init__(self, rate: float) -> None:
        self.rate, self.most = rate, max(1.0, 2 * rate)
        self._left, self._seen, self._lock = self.most, time.monotonic(), threading.Lock()

    def take(self) -> bool:
        """Whether one more may pass now."""
        with self._lock:
            now = time.monotonic()
            self._left, self._seen = min(self.most, self._left + (now - self._seen) * self.rate), now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Service:
    """The handlers.

    Args:
        live: gives the bundle to answer from.
        token: bearer token that ``/prefix`` and ``/metrics`` ask for; None asks for none.
        limits: see there.
    """

    def __init__(self, live: Live, token: str | None = None, limits: Limits = Limits()) -> None:
        self.live, self.limits = live, limits
        self._token = token.encode() if token else None
        self._bucket = Bucket(limits.per_second)
        self.registry = CollectorRegistry()
        self._requests = Counter("tapstate_requests", "Requests by HTTP status.", ["path", "status"], registry=self.registry)
        self._users = Counter("tapstate_users", "Users asked for, by what is known of them.", ["status"], registry=self.registry)
        steps = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)
        self._seconds = Histogram("tapstate_prefix_seconds", "Time from body to prefix.", buckets=steps, registry=self.registry)
        for name, what, read in (
            ("tapstate_bundle_version", "Version that answers.", lambda: live.bundle.manifest["version"]),
            ("tapstate_bundle_users", "Users of the bundle that answers.", lambda: len(live.bundle)),
            ("tapstate_bundle_valid_until_seconds", "When its answers expire.", lambda: live.bundle.manifest["valid_until"]),
            ("tapstate_swap_failing", "1 while the bundle that CURRENT names cannot be used.", lambda: int(live.error is not None)),
        ):
            Gauge(name, what, registry=self.registry).set_function(read)

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/prefix", self._guarded("/prefix", self._prefix), methods=["POST"]),
                Route("/healthz", self._guarded("/healthz", self._health, open_to_all=True), methods=["GET"]),
                Route("/metrics", self._guarded("/metrics", self._metrics), methods=["GET"]),
            ]
        )

    def _guarded(
        self, path: str, answer: Callable[[Request], Awaitable[Response]], *, open_to_all: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                if not open_to_all:
                    self._admit(request)
                response = await answer(request)
            except RefusedError as refused:
                response = JSONResponse({"error": refused.why}, refused.status, refused.headers)
            except ClientDisconnect:
                response = Response(status_code=499)
            except InputError as error:
                response = JSONResponse({"error": error.what}, 400)
            except TapstateError as error:
                # Paths of this machine are no caller's business.
                response = JSONResponse({"error": error.what}, 503)
            self._requests.labels(path, response.status_code).inc()
            return response

        return handle

    def _admit(self, request: Request) -> None:
        if self._token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
                raise RefusedError(401, "give the bearer token", {"WWW-Authenticate": "Bearer"})
        if not self._bucket.take():
            raise RefusedError(429, f"more than {self.limits.per_second:g} requests a second", {"Retry-After": "1"})

    async def _health(self, request: Request) -> Response:
        bundle, error = self.live.bundle, self.live.error
        about = {"status": "ok", "bundle_id": bundle.bundle_id, "version": bundle.manifest["version"], "users": len(bundle)}
        about |= {"tasks": bundle.tasks} if bundle.tasks else {}
        return JSONResponse({**about, "expired": time.time() > bundle.manifest["valid_until"], "swap_error": error.what if error else None})

    async def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def _prefix(self, request: Request) -> Response:
        body = await self._body(request)
        began = time.perf_counter()
        bundle = self.live.bundle
        arrow = ARROW in request.headers.get("accept", "")
        answer, response = await run_in_threadpool(lambda: self._answer(bundle, body, arrow))
        self._seconds.observe(time.perf_counter() - began)
        for status in answer.status:
            self._users.labels(status).inc()
        return response

    async def _body(self, request: Request) -> bytes:
        most, parts, size = self.limits.body_bytes, [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise RefusedError(413, f"a body of more than {most} bytes")
            parts.append(part)
        return b"".join(parts)

    def _answer(self, bundle: Bundle, body: bytes, arrow: bool) -> tuple[Answer, Response]:
        asked = self._asked(body)
        if asked.get("static"):
            answer = bundle.static_prefix(asked["users"], now=asked.get("now"), task=asked.get("task"))
        else:
            answer = bundle.prefix(asked["users"], asked["queries"], now=asked.get("now"), task=asked.get("task"))
        about = {"bundle_id": bundle.bundle_id, "version": bundle.manifest["version"], "length": bundle.length, "dim": bundle.dim}
        if not arrow:
            return answer, JSONResponse({**about, "status": answer.status, "prefix": answer.prefix.tolist()})
        flat = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(answer.prefix).reshape(-1)), bundle.length * bundle.dim)
        table = pa.table({"status": pa.array(answer.status, pa.string()), "prefix": flat})
        table = table.replace_schema_metadata({key: str(value) for key, value in about.items()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return answer, Response(sink.getvalue().to_pybytes(), media_type=ARROW)

    def _asked(self, body: bytes) -> dict[str, Any]:
        """The request, once every field of it is what it should be."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, "the body is not JSON") from error
        if not isinstance(asked, dict) or not set(asked) <= _FIELDS or not _texts(asked.get("users")):
            raise RefusedError(
                400,
                'give {"users": [text, …], "queries": [text, …]} or {"users": […], "static": true}, '
                '"now" if it is not now, and "task" if the bundle has tasks',
            )
        if len(asked["users"]) > self.limits.users:
            raise RefusedError(413, f"more than {self.limits.users} users")
        if not isinstance(asked.get("static", False), bool):
            raise RefusedError(400, "static is true or false")
        if not asked.get("static"):
            if not _texts(asked.get("queries")) or len(asked["queries"]) != len(asked["users"]):
                raise RefusedError(400, "give one query, a text, for each user")
            if any(len(query) > self.limits.query_chars for query in asked["queries"]):
                raise RefusedError(413, f"a query of more than {self.limits.query_chars} characters")
        elif "queries" in asked:
            raise RefusedError(400, "a static prefix has no query")
        now = asked.get("now")
        if now is not None and (type(now) not in (int, float) or not math.isfinite(now) or not _TIMES[0] <= now <= _TIMES[1]):
            raise RefusedError(400, "now is a time in seconds since 1970")
        task = asked.get("task")
        if not _texts([name for name in (task if isinstance(task, list) else [task]) if name is not None]):
            raise RefusedError(400, "task is a text, or a list with a text or null for each user")
        return asked


def _texts(value: Any) -> bool:
    """Whether it is a list of texts that UTF-8 can write."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return False
    try:
        "".join(value).encode()
    except UnicodeEncodeError:
        return False
    return True
