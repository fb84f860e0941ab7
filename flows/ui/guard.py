"""The guard in front of every route of the console, web sockets included: token, origin, and what pages may load.

A browser signs in once, at ``/login``, and keeps a cookie that is good while the token is; a script sends the token as a bearer.
"""

import hashlib
import hmac
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from store.service import Bucket

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
#: Vue compiles templates in the browser; nothing comes from anywhere else.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not "no-referrer": browsers then hide the origin of a form, too.
    "referrer-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
}
LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>tapstate</title>
<link rel="icon" href="data:,"><style>:root{{color-scheme:light dark}}body{{font:16px sans-serif;max-width:22rem;margin:20vh auto}}
input,button{{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin-top:.6rem}}</style>
<h1>tapstate</h1><form method="post" action="/login"><label for="token">Token of this console (TAPSTATE_TOKEN)</label>
<input id="token" name="token" type="password" autofocus required autocomplete="current-password"><button>Sign in</button></form>
<p role="alert">{said}</p></html>"""
#: Bytes of a sign-in, at most.
FORM = 4_096


class Guard:
    """ASGI middleware.

    Args:
        app: what it stands in front of.
        token: what it asks for; None asks for none, and then only this machine's own names are answered, so that a page elsewhere
            cannot reach the console under a name of its own.
        name: of the cookie.
    """

    def __init__(self, app: ASGIApp, token: str | None, name: str = "tapstate") -> None:
        self.app, self.name = app, name
        self._token = token.encode() if token else None
        self._session = hmac.digest(self._token, b"tapstate ui", hashlib.sha256).hex() if self._token else ""
        self._tries = Bucket(1.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass, refuse the rest."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = await self._refusal(scope, headers, receive)
        if refusal is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            # Before it is accepted, closing answers 403.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, _with_headers(send))

    async def _refusal(self, scope: Scope, headers: Headers, receive: Receive) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return PlainTextResponse("requests of other pages are not answered", 403)
        if self._token is None:
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            return None if name in LOOPBACK else PlainTextResponse("this console answers to localhost only", 403)
        if scope["type"] == "http" and scope["path"] == "/login":
            return await self._login(Request(scope, receive))
        cookie = SimpleCookie(headers.get("cookie", "")).get(self.name)
        bearer = headers.get("authorization", "")
        if cookie and hmac.compare_digest(cookie.value.encode(), self._session.encode()):
            return None
        if bearer and hmac.compare_digest(bearer.encode(), b"Bearer " + self._token):
            return None
        if "text/html" in headers.get("accept", "") and scope["type"] == "http" and scope["method"] == "GET":
            return RedirectResponse("/login", 303)
        return PlainTextResponse("a token is needed", 401, {"www-authenticate": "Bearer"})

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(LOGIN.format(said=""))
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > FORM:
                return PlainTextResponse("too large", 413)
        given = parse_qs(body.decode("ascii", "replace")).get("token", [""])[0].encode()
        if not self._tries.take():
            return HTMLResponse(LOGIN.format(said="Too many tries; wait a second."), 429)
        if not hmac.compare_digest(given, self._token or b""):
            return HTMLResponse(LOGIN.format(said="That is not the token."), 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(self.name, self._session, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return response


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
