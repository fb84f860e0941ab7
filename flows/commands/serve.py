"""``tapstate serve``: prefixes over HTTP."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from flows.commands import PullerOption, home_uri
from flows.console import note
from schemas.errors import ConfigError


def serve(
    bundles: Annotated[str, typer.Argument(help="Directory or object-store URI with CURRENT. (default: bundles of the home)")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8765,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between looks at CURRENT.")] = 10.0,
    cache: Annotated[Path | None, typer.Option(help="Directory that bundles of an object store are pulled into.")] = None,
    by: PullerOption = None,
    provider: Annotated[list[str] | None, typer.Option(help="onnxruntime provider; repeatable, best first. (default: CPU)")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of one ONNX run; 0: one a core.")] = 1,
    max_users: Annotated[int, typer.Option(min=1, help="Most users of one request.")] = 256,
    max_bytes: Annotated[int, typer.Option(min=1, help="Most bytes of one request.")] = 1 << 20,
    rate: Annotated[float, typer.Option(min=0.001, help="Requests a second, over all callers.")] = 1000.0,
    token_env: Annotated[str, typer.Option(help="Environment variable that holds the bearer token.")] = "TAPSTATE_TOKEN",
) -> None:
    """Answer POST /prefix, GET /healthz and GET /metrics from the bundle that CURRENT names, and follow it."""
    token = os.environ.get(token_env) or None
    if token is None and not loopback(host):
        raise ConfigError(
            f"anyone who reaches {host} could ask", where="--host", mend=f"put a token into {token_env}, or listen on 127.0.0.1"
        )
    try:
        import uvicorn

        from store.service import Limits, Service
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed", mend="pip install 'tapstate[serve]'") from error
    from store.client import CPU
    from store.live import Live

    with Live(bundles or f"{home_uri()}/bundles", every, providers=provider or CPU, threads=threads, cache=cache, by=by) as live:
        note(f"{live.bundle!r} on http://{host}:{port}")
        app = Service(live, token, Limits(body_bytes=max_bytes, users=max_users, per_second=rate)).app()
        uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False, limit_concurrency=512, timeout_keep_alive=15)


def loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
