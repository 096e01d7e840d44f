"""The service's own sandboxes, one per set of limits, and each client's share of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from ..box import Sandbox
from ..limits import Limits
from ..opening import open_sandbox
from ..results import SandboxError
from .settings import ServiceSettings

MOST_LIMITS = 8
"""Most sets of limits served at once; each has at least one guest."""
IDLE_S = 300.0
"""A sandbox unused for this long is closed."""


class Pools:
    """Sandboxes by their limits, opened on demand."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._boxes: dict[Limits, asyncio.Task[Sandbox]] = {}
        self._users: dict[Limits, int] = {}
        self._unused_since: dict[Limits, float] = {}

    @property
    def boxes(self) -> list[Sandbox]:
        """The open sandboxes."""
        return [
            one.result() for one in self._boxes.values() if one.done() and not one.cancelled() and not one.exception()
        ]

    @property
    def guests_started(self) -> int:
        """Guests started in all open sandboxes."""
        return sum(box.guests_started for box in self.boxes)

    @contextlib.asynccontextmanager
    async def use(self, limits: Limits) -> AsyncGenerator[Sandbox]:
        """Opens the sandbox with these limits for the duration of a block.

        Raises:
            SandboxError: it cannot be opened, or too many different limits are in use.
        """
        await self._make_room(limits)
        self._users[limits] = self._users.get(limits, 0) + 1
        try:
            if limits not in self._boxes:
                box = open_sandbox(
                    self._settings.sandbox, limits=limits, lanes=self._settings.lanes, runtime=self._settings.runtime
                )
                self._boxes[limits] = asyncio.create_task(box.start())
            opening = self._boxes[limits]
            try:
                yield await asyncio.shield(opening)
            finally:
                if opening.done() and (opening.cancelled() or opening.exception()):
                    self._boxes.pop(limits, None)  # the next one tries again
        finally:
            self._users[limits] -= 1
            self._unused_since[limits] = time.monotonic()

    async def close_unused(self, idle_s: float = IDLE_S) -> None:
        """Closes sandboxes that are unused for this long, except the one used last."""
        unused = sorted(
            (limits for limits in self._boxes if not self._users[limits]), key=lambda one: self._unused_since[one]
        )
        if len(unused) == len(self._boxes):
            unused = unused[:-1]
        for limits in unused:
            if time.monotonic() - self._unused_since[limits] >= idle_s:
                await self._close(limits)

    async def close(self) -> None:
        """Closes all sandboxes."""
        await asyncio.gather(*(self._close(limits) for limits in list(self._boxes)))

    async def _make_room(self, limits: Limits) -> None:
        if limits in self._boxes or len(self._boxes) < MOST_LIMITS:
            return
        unused = [one for one in self._boxes if not self._users[one]]
        if not unused:
            raise SandboxError(f"the service already serves {MOST_LIMITS} other sets of limits: ask for one of them")
        await self._close(min(unused, key=lambda one: self._unused_since[one]))

    async def _close(self, limits: Limits) -> None:
        opening = self._boxes.pop(limits)
        if not opening.done():
            opening.cancel()
        with contextlib.suppress(SandboxError, asyncio.CancelledError):
            await (await opening).close()


class Client:
    """A client of the service: all holders of one token."""

    def __init__(self, name: str, lanes: int, sessions: int) -> None:
        self.name = name
        self.slots = asyncio.Semaphore(lanes)
        """Each running snippet takes one; beyond that, a client waits for its own snippets."""
        self.most_sessions = sessions
        self.sessions = 0
        self.connections = 0
