"""One lane of a client: a conversation in the guest's own frames, one request at a time.

The frames are those of `guest.frames`, one a WebSocket message. What the service adds to what a guest says:

    > {"op": "open", "id": 0, "version": 1, "limits": {"wall_s", "cpu_s", "memory_mb", "output_kb"}}      first of all
    < {"hello": 1, "isolation", "landlock", "python", "lanes", "load", "note"}      or {"refused": ...}, {"broken": ...}
    < {"waiting": true}                           between a request and its answer, every few seconds
    < {"id", "refused": ...}                      the session is one too many
    < {"id", "broken": ...}                       the service's own sandbox broke: try elsewhere
    < {..., "leaving": true}                      in any answer: open no new sessions, the service is shutting down

The requests are `run`, `close` and `stats`, as a guest takes them. When the connection ends, so do its sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..box import Sandbox, Session
from ..guest import frames
from ..results import Result, SandboxError
from .pools import Client

if TYPE_CHECKING:
    from .service import Service

WAITING_S = 5.0
"""How often a waiting client is notified."""

Send = Callable[[dict[str, object]], Awaitable[None]]


class Connection:
    """Answers a client's requests over one connection, on one sandbox."""

    def __init__(self, service: Service, client: Client, box: Sandbox, send: Send) -> None:
        self.sessions: dict[int, Session] = {}
        self._service, self._client, self._box, self._send = service, client, box, send
        self._closing: set[asyncio.Task[None]] = set()

    async def answer(self, request: dict[str, object]) -> None:
        """Handles a request and sends the answer.

        Raises:
            FrameError: it is no request.
        """
        kind = frames.text(request, "op")
        number = frames.integer(request, "id")
        if kind == "close":
            self._close(frames.integer(request, "session"))
            return
        if kind not in ("run", "stats"):
            raise frames.FrameError(f"unknown operation {kind!r}")
        work = asyncio.ensure_future(self._run(request) if kind == "run" else self._stats())
        try:
            while not (await asyncio.wait((work,), timeout=WAITING_S))[0]:
                await self._send({"waiting": True})
        finally:
            work.cancel()
        reply = {"id": number, **work.result()}
        if self._service.draining:
            reply["leaving"] = True
        await self._send(reply)

    async def end(self) -> None:
        """Ends the sessions of a client that is gone."""
        for key in list(self.sessions):
            self._close(key)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _run(self, request: dict[str, object]) -> dict[str, object]:
        key = frames.integer(request, "session")
        code = frames.text(request, "code")
        session = self.sessions.get(key)
        if session is None:
            if frames.boolean(request, "resumes"):
                return {"lost": True}
            if self._client.sessions >= self._client.most_sessions:
                self._service.metrics.refused.labels("sessions").inc()
                most = self._client.most_sessions
                return {"refused": f"this client has {most} open sessions, the most allowed (--client-sessions)"}
            session = self.sessions[key] = self._box.session()
            self._count_sessions(1)
        try:
            result = await self._service.run(self._client, session, code)
        except SandboxError as error:
            return {"broken": str(error)}
        return reply_of(result)

    async def _stats(self) -> dict[str, object]:
        """Totals over all guests with these limits."""
        total: dict[str, object] = {"guests": self._box.guests_started}
        for guest in await self._box.stats():
            for name, count in guest.items():
                total[name] = int(str(total.get(name, 0))) + count
        return total

    def _close(self, key: int) -> None:
        session = self.sessions.pop(key, None)
        if session is not None:
            # Not awaited: the guest ends the session after its current snippet.
            task = asyncio.create_task(session.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._count_sessions(-1)

    def _count_sessions(self, change: int) -> None:
        self._client.sessions += change
        self._service.metrics.sessions.labels(self._client.name).inc(change)


def reply_of(result: Result) -> dict[str, object]:
    """A result in the form of a guest's report."""
    return {
        "status": result.status.value,
        "stdout": result.stdout,
        "error": result.error,
        "duration_s": result.duration_s,
        "truncated": result.truncated,
    }
