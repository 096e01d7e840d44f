"""One guest and the conversation with it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol

from .guest import frames
from .limits import Limits
from .results import Result, SandboxError, Status

_GRACE_S = 20.0
"""Allowance beyond a snippet's wall limit: cloning, killing, a loaded machine."""
START_S = 120.0
"""Time limit for the start of a guest."""


class LaneBroken(Exception):
    """This guest cannot be used any more; says nothing about the snippet."""


class LaneGone(LaneBroken):
    """This guest broke before the request was sent. Does not count as a try of the waiting caller."""


class Channel(Protocol):
    """The byte streams of a guest, and its life."""

    @property
    def ended(self) -> bool:
        """Whether the other side is known to be gone."""
        ...

    async def read(self, size: int) -> bytes:
        """Reads exactly `size` bytes from the supervisor. Raises LaneBroken at its end."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends to the supervisor. Raises LaneBroken if it is gone."""
        ...

    async def close(self) -> None:
        """Ends the guest and waits until nothing of it is left. Idempotent."""
        ...

    def complaint(self) -> str:
        """The end of the guest's log."""
        ...


@dataclass(frozen=True, slots=True)
class Hello:
    """A guest's first message, when it is ready."""

    isolation: str
    """`users` or `namespaces`: what isolates sessions."""
    landlock: int
    """Version of Landlock that confines sessions, 0 for none."""
    python: str


class Lane:
    """A running guest. Answers one request at a time; waiting callers are served in order."""

    def __init__(self, channel: Channel, hello: Hello, limits: Limits) -> None:
        self.hello = hello
        self.sessions: set[int] = set()
        """Sessions whose state lives here."""
        self.load = 0
        """Callers being served or waiting."""
        self.runs = 0
        self.leaving = False
        """Whether the other side wants no new sessions: a service is shutting down, or a guest runs out of users."""
        self.broken = False
        self.idle_since = time.monotonic()
        self._channel = channel
        self._limits = limits
        self._lock = asyncio.Lock()
        self._requests = 0

    @classmethod
    async def start(cls, channel: Channel, limits: Limits) -> Lane:
        """Waits until the guest behind a channel is ready.

        Raises:
            LaneBroken: it did not start.
        """
        try:
            async with asyncio.timeout(START_S):
                message = await _receive(channel, frames.reply_limit(limits.output_kb))
            if message.get("hello") != 1:
                raise LaneBroken(f"the guest said {message!r:.200}")
            hello = Hello(frames.text(message, "isolation"), frames.integer(message, "landlock"),
                          frames.text(message, "python"))  # fmt: skip
        except (frames.FrameError, LaneBroken, TimeoutError) as error:
            await channel.close()
            complaint = channel.complaint()  # after the log has been read to its end
            raise LaneBroken(f"the guest did not start: {complaint or error or type(error).__name__}") from None
        except BaseException:
            await channel.close()
            raise
        return cls(channel, hello, limits)

    @property
    def gone(self) -> bool:
        """Whether nothing can be asked of this guest any more."""
        return self.broken or self._channel.ended

    async def run(self, session: int, code: str, *, resumes: bool) -> Result | None:
        """Runs a snippet in a session; None if the guest no longer has the state that the snippet needs.

        Raises:
            LaneGone: the guest broke while serving another request.
            LaneBroken: the guest died, hangs, or violates the protocol.
            SandboxError: a remote service refuses the session.
        """
        self.sessions.add(session)
        self.runs += 1
        message = await self._ask({"op": "run", "session": session, "code": code, "resumes": resumes})
        try:
            if message.get("lost") is True:
                return None
            if "refused" in message:
                raise SandboxError(frames.encodable(frames.text(message, "refused")))
            if "broken" in message:
                self.broken = True
                raise LaneBroken(frames.encodable(frames.text(message, "broken")))
            error = message.get("error")
            return Result(
                status=Status(frames.text(message, "status")),
                stdout=frames.encodable(frames.text(message, "stdout")),
                error=None if error is None else frames.encodable(frames.text(message, "error")),
                duration_s=frames.number(message, "duration_s"),
                truncated=frames.integer(message, "truncated"),
            )
        except ValueError as error:
            self.broken = True
            raise LaneBroken(f"the guest answered {error}") from None

    async def stats(self) -> dict[str, int]:
        """The guest's counts: processes, descriptors, memory."""
        message = await self._ask({"op": "stats"})
        return {key: frames.integer(message, key) for key in message if key != "id"}

    async def forget(self, session: int) -> None:
        """Ends a session. No effect if the guest is gone."""
        self.sessions.discard(session)
        self.idle_since = time.monotonic()
        if self.gone:
            return
        self._requests += 1
        try:
            async with self._lock:
                await self._channel.write(frames.encode({"op": "close", "session": session, "id": self._requests}))
        except LaneBroken:
            self.broken = True

    async def close(self) -> None:
        """End the guest."""
        self.broken = True
        await self._channel.close()

    async def _ask(self, request: dict[str, object]) -> dict[str, object]:
        self.load += 1
        # The exchange is finished even if the caller is cancelled: requests and answers must stay in step.
        exchange = asyncio.ensure_future(self._exchange(request))
        exchange.add_done_callback(self._done)
        return await asyncio.shield(exchange)

    def _done(self, exchange: asyncio.Future[dict[str, object]]) -> None:
        self.load -= 1
        self.idle_since = time.monotonic()
        if not exchange.cancelled():
            exchange.exception()  # marks it as retrieved, even if the caller is gone

    async def _exchange(self, request: dict[str, object]) -> dict[str, object]:
        async with self._lock:
            if self.broken:
                raise LaneGone("the guest is gone")
            self._requests += 1
            number = self._requests
            try:
                message = await self._converse({**request, "id": number})
                while message.get("waiting") is True:  # a remote service that is busy: it will come to this one
                    message = await self._converse(None)
                if frames.integer(message, "id") != number:
                    raise frames.FrameError(f"the answer is to {message['id']!r}, not to {number}")
                self.leaving |= message.get("leaving") is True
            except (frames.FrameError, LaneBroken, TimeoutError) as error:
                self.broken = True
                why = self._channel.complaint() or str(error) or "it hangs"
                raise LaneBroken(f"the guest broke: {why}") from None
            except BaseException:
                self.broken = True
                raise
            return message

    async def _converse(self, request: dict[str, object] | None) -> dict[str, object]:
        """Send a request, if there is one, and wait for the next frame."""
        async with asyncio.timeout(self._limits.wall_s + _GRACE_S):
            if request is not None:
                await self._channel.write(frames.encode(request))
            return await _receive(self._channel, frames.reply_limit(self._limits.output_kb))


async def _receive(channel: Channel, limit: int) -> dict[str, object]:
    header = await channel.read(frames.HEADER.size)
    return frames.decode(await channel.read(frames.length(header, limit)))
