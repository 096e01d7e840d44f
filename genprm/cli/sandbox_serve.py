"""`genprm sandbox serve`: the sandbox of this machine for others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from genprm.cli.boundary import UsageError, friendly

Backend = Annotated[
    str,
    typer.Option(
        "--sandbox",
        help="auto (Docker, else bubblewrap, else Podman), docker, podman or bubblewrap.",
        metavar="BACKEND",
    ),
]


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8312,
    socket: Annotated[
        Path | None, typer.Option(help="Listen on this Unix socket instead, for this user alone.", show_default="none")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM).", show_default="none")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).", show_default="none")] = None,
    sandbox: Backend = "auto",
    runtime: Annotated[
        str | None, typer.Option(help="A container runtime, e.g. kata-runtime.", show_default="the engine's own")
    ] = None,
    lanes: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Most concurrent snippets.", show_default="the number of cores")
    ] = None,
    client_lanes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most concurrent snippets of one client; further ones wait.", show_default="all lanes"
        ),
    ] = None,
    client_sessions: Annotated[int, typer.Option(min=1, help="Sessions that one client may have open.")] = 4096,
    max_wall_s: Annotated[float, typer.Option(help="Longest time limit that a client may ask for.")] = 120.0,
    max_memory_mb: Annotated[int, typer.Option(min=64, help="Most memory that a client may ask for.")] = 4096,
    drain_s: Annotated[float, typer.Option(min=0, help="Seconds for open sessions to end after SIGTERM.")] = 60.0,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Serve without tokens on a network address.")] = False,
) -> None:
    """Runs snippets for other machines, which use `--sandbox http://HOST:PORT` or `unix:/PATH`.

    Clients send one of the tokens in GENPRM_SANDBOX_TOKENS (`token` or `name:token`, separated by commas), if there are
    any; a client takes its own from GENPRM_SANDBOX_TOKEN. POST /run_code answers in SandboxFusion's shape. GET
    /metrics, /health, /ready. SIGTERM ends it once the sessions that are open have ended.
    """
    with friendly():
        try:
            from genprm.sandbox.service import ServiceError, ServiceSettings
            from genprm.sandbox.service import serve as run
        except ImportError as error:
            raise UsageError(f"the service needs {error.name}: pip install 'genprm[serve]'") from None
        from genprm.sandbox import SandboxError
        from genprm.sandbox.service.settings import tokens_from_environment

        settings = ServiceSettings(
            host=host,
            port=port,
            socket=socket,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tokens=tokens_from_environment(),
            no_auth=no_auth,
            sandbox=sandbox,
            runtime=runtime,
            lanes=lanes,
            client_lanes=client_lanes,
            client_sessions=client_sessions,
            max_wall_s=max_wall_s,
            max_memory_mb=max_memory_mb,
            drain_s=drain_s,
        )

        def started(address: str) -> None:
            typer.echo(f"the sandbox answers at {address}", err=True)
            if not settings.local and settings.tls_cert is None:
                typer.echo("without TLS, tokens and code cross the network unencrypted", err=True)

        try:
            asyncio.run(run(settings, on_start=started))
        except ServiceError as error:
            raise UsageError(str(error)) from None
        except SandboxError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
