"""The console as one ASGI application."""

from fastapi import FastAPI
from nicegui import ui
from starlette.types import ASGIApp

from flows.ui import bundles, erasures, nights, rejects, user, version, versions
from flows.ui.frame import Console
from flows.ui.guard import Guard

#: Seconds that a browser may be gone before its page is forgotten.
RECONNECT = 10.0


def register(console: Console) -> None:
    """Make every page, for this console's home."""
    for page in (versions, version, user, nights, rejects, bundles, erasures):
        page.register(console)


def application(console: Console, token: str | None, name: str) -> ASGIApp:
    """The console behind its guard.

    Args:
        token: see ``Guard``.
        name: of the cookie.
    """
    register(console)
    # Its own pages of documentation load scripts from elsewhere.
    app = FastAPI(openapi_url=None)
    ui.run_with(app, title="tapstate", favicon="🗂", dark=None, reconnect_timeout=RECONNECT, show_welcome_message=False)
    return Guard(app, token, name)
