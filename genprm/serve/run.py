"""Runs the service with uvicorn until a signal, then finishes accepted requests."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from genprm.prms.base import PRM
from genprm.serve.app import App, create_app
from genprm.serve.gate import JsonLines
from genprm.serve.settings import ServeConfig, ServeError, keys_from_environment
from genprm.serve.wire import Bounds, bounded

_GRACE_S = 5
"""Time to send the last responses, in seconds."""
_OTHER_FILES = 512
"""Open files that are not client connections."""


class Server(uvicorn.Server):
    """Keeps answering while it drains; uvicorn would stop listening at once."""

    def __init__(
        self,
        app: App,
        config: ServeConfig,
        on_start: Callable[[], None] = lambda: None,
        bounds: Bounds | None = None,
    ) -> None:
        settings = uvicorn.Config(
            app,
            http=bounded(bounds or Bounds(connections=config.max_connections)),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
            ws="none",
        )
        super().__init__(settings)
        app.service.metrics.connections.set_function(lambda: len(self.server_state.connections))
        self._app = app
        self._drain_s = config.drain_s
        self._on_start = on_start
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Calls `on_start` once the service answers."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves signals to `serve`, whose handlers would run in addition to uvicorn's."""
        yield

    def end(self) -> None:
        """Starts to drain; a second call ends at once."""
        if self._draining is not None:
            self.force_exit = self.should_exit = True
            return
        self._draining = asyncio.create_task(self.drain())

    async def drain(self) -> None:
        """Refuses new requests, finishes accepted ones, and ends."""
        await self._app.service.desk.drain(self._drain_s)
        self.should_exit = True


async def serve(
    prm: PRM,
    config: ServeConfig,
    *,
    votes: int = 1,
    log: Any = None,
    keys: Sequence[str] | None = None,
    on_start: Callable[[str], None] = lambda _: None,
) -> None:
    """Serves a judge until SIGTERM or SIGINT, and then finishes accepted requests.

    Args:
        prm: the judge; it stays open.
        config: address, limits, drain time.
        votes: chains per solution.
        log: the open folder of a run for judgements.
        keys: as for `create_app`.
        on_start: called with the URL once the service answers.

    Raises:
        ServeError: the address cannot be used, or would be reachable without a key.
    """
    keys = keys_from_environment() if keys is None else tuple(keys)
    config.check_exposure(keys)
    app = create_app(prm, config, keys=keys, votes=votes, log=log)
    _log_as_json()
    _allow_files(config.max_connections)
    listening = listen(config.host, config.port)
    port = listening.getsockname()[1]
    url = f"http://{_host(config.host)}:{port}"
    server = Server(app, config, lambda: on_start(url))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    try:
        await server.serve(sockets=[listening])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """Opens a listening socket.

    Raises:
        ServeError: it cannot listen.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listening


def _allow_files(connections: int) -> None:
    """Raises the limit on open files, of which many systems allow 1024, as far as connections need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _log_as_json() -> None:
    logger = logging.getLogger("genprm.serve")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
