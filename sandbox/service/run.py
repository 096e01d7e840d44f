"""Runs the service with uvicorn until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Callable, Generator
from pathlib import Path

import uvicorn

from .app import create_app
from .service import Service
from .settings import ServiceError, ServiceSettings

_GRACE_S = 3
_PING_S, _PONG_S = 20.0, 60.0
"""A client that does not answer pings for so long has vanished; its sessions are freed."""
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Goes on answering while it drains: uvicorn itself would close the door at once."""

    def __init__(self, service: Service, settings: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(settings)
        self._service = service
        self._on_start = on_start
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells that the service answers."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves signals to `serve`."""
        yield

    def end(self) -> None:
        """Begins to drain; the second call ends at once."""
        if self._draining is not None:
            self.force_exit = self.should_exit = True
            return
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True


async def serve(
    settings: ServiceSettings,
    *,
    on_start: Callable[[str], None] = lambda address: None,
    ending: asyncio.Event | None = None,
) -> None:
    """Serves sandboxes until SIGTERM or SIGINT; sessions that are open then have `drain_s` seconds to end.

    Args:
        settings: where to listen, what to run snippets in.
        on_start: told where the service answers, as `--sandbox` takes it, once it does.
        ending: ends it as a signal does; signals are then left alone.

    Raises:
        ServiceError: it cannot listen there, or would be open to all.
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
        server = _Server(service, config, lambda: on_start(address))
        with _told_to_end(server, ending):
            await server.serve(sockets=[listening])
    finally:
        await service.close()
        listening.close()
        if settings.socket is not None:
            settings.socket.unlink(missing_ok=True)


@contextlib.contextmanager
def _told_to_end(server: _Server, ending: asyncio.Event | None) -> Generator[None]:
    loop = asyncio.get_running_loop()
    if ending is not None:

        async def wait() -> None:
            await ending.wait()
            server.end()

        task = asyncio.create_task(wait())
        try:
            yield
        finally:
            task.cancel()
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, server.end)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _listen(settings: ServiceSettings) -> tuple[socket.socket, str]:
    """A socket that listens, and its address. Raises ServiceError."""
    if settings.socket is not None:
        return _listen_unix(settings.socket), f"unix:{settings.socket.absolute()}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ServiceError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from error
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    scheme = "https" if settings.tls_cert else "http"
    return listening, f"{scheme}://{host}:{listening.getsockname()[1]}"


def _listen_unix(path: Path) -> socket.socket:
    """A Unix socket that only this user can connect to. One that nobody listens on any more is replaced."""
    listening = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
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
