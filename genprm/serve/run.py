"""Runs the service with uvicorn until a signal, then finishes accepted requests."""

from __future__ import annotations

import logging
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from genprm.prms.base import PRM
from genprm.sandbox.service.draining import DrainingServer, listen_tcp, url_host
from genprm.serve.app import App, create_app
from genprm.serve.gate import JsonLines
from genprm.serve.settings import ServeConfig, ServeError, keys_from_environment
from genprm.serve.wire import Bounds, bounded

_GRACE_S = 5
"""Time to send the last responses, in seconds."""
_OTHER_FILES = 512
"""Open files that are not client connections."""


class Server(DrainingServer):
    """Serves an app; see `DrainingServer`."""

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
        desk, drain_s = app.service.desk, config.drain_s
        super().__init__(settings, lambda: desk.drain(drain_s), on_start)
        app.service.metrics.connections.set_function(lambda: len(self.server_state.connections))


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
    url = f"http://{url_host(config.host)}:{port}"
    server = Server(app, config, lambda: on_start(url))
    try:
        with server.ended_by_signals():
            await server.serve(sockets=[listening])
    finally:
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """Opens a listening socket.

    Raises:
        ServeError: it cannot listen.
    """
    try:
        return listen_tcp(host, port)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _allow_files(connections: int) -> None:
    """Raises the limit on open files, of which many systems allow 1024, as far as connections need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log_as_json() -> None:
    logger = logging.getLogger("genprm.serve")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
