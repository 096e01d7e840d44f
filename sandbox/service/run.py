"""Runs the service with uvicorn until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Generator
from pathlib import Path

import uvicorn

from .app import create_app
from .draining import BACKLOG, DrainingServer, listen_tcp, url_host
from .service import Service
from .settings import ServiceError, ServiceSettings

_GRACE_S = 3
_PING_S, _PONG_S = 20.0, 60.0
"""A client that does not answer pings for this long is gone; its sessions are freed."""


async def serve(
    settings: ServiceSettings,
    *,
    on_start: Callable[[str], None] = lambda address: None,
    ending: asyncio.Event | None = None,
) -> None:
    """Serves sandboxes until SIGTERM or SIGINT; sessions that are open then have `drain_s` seconds to end.

    Args:
        settings: where to listen, what to run snippets in.
        on_start: called with the address, in the form of `--sandbox`, once the service answers.
        ending: ends it as a signal does; signals are then left alone.

    Raises:
        ServiceError: it cannot listen there, or would be open to everyone.
        SandboxError: no sandbox can be used on this machine.
    """
    settings.check()
    listening, address = _listen(settings)
    service = Service(settings)
    try:
        await service.start()
        config = uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
            ws="websockets-sansio",
            ws_max_size=(8 << 20) + 4,
            ws_ping_interval=_PING_S,
            ws_ping_timeout=_PONG_S,
            ws_per_message_deflate=False,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        server = DrainingServer(config, service.drain, lambda: on_start(address))
        with server.ended_by_signals() if ending is None else _ended_by(ending, server):
            await server.serve(sockets=[listening])
    finally:
        await service.close()
        listening.close()
        if settings.socket is not None:
            settings.socket.unlink(missing_ok=True)


@contextlib.contextmanager
def _ended_by(ending: asyncio.Event, server: DrainingServer) -> Generator[None]:
    async def wait() -> None:
        await ending.wait()
        server.end()

    task = asyncio.create_task(wait())
    try:
        yield
    finally:
        task.cancel()


def _listen(settings: ServiceSettings) -> tuple[socket.socket, str]:
    """A listening socket and its address. Raises ServiceError."""
    if settings.socket is not None:
        return _listen_unix(settings.socket), f"unix:{settings.socket.absolute()}"
    try:
        listening = listen_tcp(settings.host, settings.port)
    except OSError as error:
        raise ServiceError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from error
    scheme = "https" if settings.tls_cert else "http"
    return listening, f"{scheme}://{url_host(settings.host)}:{listening.getsockname()[1]}"


def _listen_unix(path: Path) -> socket.socket:
    """A Unix socket that only this user can connect to. A stale one is replaced."""
    listening = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ServiceError(f"cannot listen on {str(path)!r}: {error.strerror or error}") from error
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
