"""Bounded connections: uvicorn alone waits forever for an unfinished header or an unread answer.

    Server(uvicorn.Config(app, http=bounded(Bounds())))

Built on the protocol that uvicorn picks (httptools where it is installed, else h11).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_Protocol: Any = AutoHTTPProtocol
_FULL = json.dumps({"error": {"type": "connections", "message": "too many connections are open"}}).encode()
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on connections outside of running requests."""

    connections: int = 4096
    """Most open connections; further ones get 503."""
    header_s: float = 15.0
    """Seconds from a connection's start, or a request's first byte, to the end of the header."""
    header_bytes: int = 64 << 10
    left_bytes: int = 8 << 20
    """Most bytes of a refused body that a client may still send before the connection is closed."""
    stall_s: float = 60.0
    """Seconds for a client to continue reading once the buffers of its answer are full."""


def bounded(bounds: Bounds) -> type[asyncio.Protocol]:
    """The protocol class for `uvicorn.Config(http=...)`."""

    class Bounded(_Protocol):
        """One connection."""

        _timer: asyncio.TimerHandle | None = None
        _stalled: asyncio.TimerHandle | None = None
        _got = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > bounds.connections:
                transport.write(_REFUSAL)
                transport.close()
                return
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            self.resume_writing()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
                return
            self._got += len(data)
            if self._got > (bounds.header_bytes if self.cycle is None else bounds.left_bytes):
                self.transport.abort()
            elif self._timer is None:
                self._wait()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stalled is None:
                self._stalled = self.loop.call_later(bounds.stall_s, self.transport.abort)

        def resume_writing(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            # Closing waits until the client has read what was written.
            self.loop.call_later(bounds.stall_s, self.transport.abort)

        def _wait(self) -> None:
            self._timer = self.loop.call_later(bounds.header_s, self.transport.abort)

        def _stop(self) -> None:
            self._got = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Bounded
