"""``tapstate ui``: the local web console."""

import os
from typing import Annotated

import typer

from flows.commands import open_home
from flows.commands.serve import loopback
from flows.console import note
from schemas.errors import ConfigError


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8766,
    write: Annotated[bool, typer.Option("--write", help="Let people promote and roll back; needs a token.")] = False,
    token_env: Annotated[str, typer.Option(help="Environment variable that holds the token.")] = "TAPSTATE_TOKEN",
) -> None:
    """Show the home in a browser: versions, users, nights, rejects, bundles, erasures. It only reads unless told otherwise."""
    token = os.environ.get(token_env) or None
    if token is None and not loopback(host):
        raise ConfigError(
            f"anyone who reaches {host} could read", where="--host", mend=f"put a token into {token_env}, or listen on 127.0.0.1"
        )
    if token is None and write:
        raise ConfigError("anyone on this machine could move production", where="--write", mend=f"put a token into {token_env}")
    home = open_home()
    try:
        import uvicorn

        from flows.ui.app import application
        from flows.ui.frame import Console
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed", mend="pip install 'tapstate[ui]'") from error

    note(f"{home.uri} on http://{host}:{port}{' (sign in with the token)' if token else ''}")
    app = application(Console(home.uri, write), token, f"tapstate-{port}")
    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False, limit_concurrency=128, timeout_keep_alive=15)
