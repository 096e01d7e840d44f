"""A uvicorn server that keeps answering while it drains. The judging service runs on it too."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Generator

import uvicorn

BACKLOG = 2048
"""Connections that may wait to be accepted."""


class DrainingServer(uvicorn.Server):
    """Finishes what was accepted before it ends; uvicorn itself would stop listening at once.

    Args:
        settings: uvicorn's.
        finish: refuses new work and returns when the accepted work is done.
        on_start: called once the service answers.
    """

    def __init__(
        self, settings: uvicorn.Config, finish: Callable[[], Awaitable[None]], on_start: Callable[[], None]
    ) -> None:
        super().__init__(settings)
        self._finish = finish
        self._on_start = on_start
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Calls `on_start` once the service answers."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves signals to `ended_by_signals`, whose handlers would run in addition to uvicorn's."""
        yield

    def end(self) -> None:
        """Starts to drain; a second call ends at once."""
        if self._draining is not None:
            self.force_exit = self.should_exit = True
            return
        self._draining = asyncio.create_task(self.drain())

    async def drain(self) -> None:
        """Refuses new work, finishes the accepted work, and ends."""
        await self._finish()
        self.should_exit = True

    @contextlib.contextmanager
    def ended_by_signals(self) -> Generator[None]:
        """SIGTERM and SIGINT call `end` during the block."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def listen_tcp(host: str, port: int) -> socket.socket:
    """Opens a listening socket. Port 0 takes a free one.

    Raises:
        OSError: it cannot listen there.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def url_host(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address has brackets."""
    return f"[{host}]" if ":" in host else host
