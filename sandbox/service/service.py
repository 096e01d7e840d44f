"""A sandbox service, independent of its transport."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import time

from ..box import Session
from ..limits import Limits
from ..results import Result, SandboxError
from .metrics import Metrics
from .pools import Client, Pools
from .settings import ServiceSettings

_HOUSEKEEPING_S = 30.0
_DRAIN_STEP_S = 0.05


class Service:
    """Sandboxes, clients, and their metrics."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.lanes = settings.lanes or len(os.sched_getaffinity(0))
        self.pools = Pools(settings)
        self.metrics = Metrics()
        self.draining = False
        self.ready = False
        client_lanes = min(settings.client_lanes or self.lanes, self.lanes)
        names = [name for name, _ in settings.tokens] or ["all"]
        self._clients = {name: Client(name, client_lanes, settings.client_sessions) for name in names}
        self._tokens = [(name, _digest(token)) for name, token in settings.tokens]
        self._housekeeper: asyncio.Task[None] | None = None
        self._in_flight = 0
        self.metrics.waiting.set_function(lambda: self._in_flight)
        self.metrics.watch("genprm_sandbox_lanes", "Snippets that can run at the same time.", lambda: self.lanes)
        self.metrics.watch(
            "genprm_sandbox_guests_started", "Guests started in the open sandboxes.", lambda: self.pools.guests_started
        )

    @property
    def client_lanes(self) -> int:
        """Most concurrent snippets of one client."""
        return min(self.settings.client_lanes or self.lanes, self.lanes)

    @property
    def load(self) -> float:
        """Open lanes of all clients, divided by the number of lanes."""
        return sum(client.connections for client in self._clients.values()) / self.lanes

    @property
    def sessions(self) -> int:
        """Open sessions of all clients."""
        return sum(client.sessions for client in self._clients.values())

    def client_of(self, token: str) -> Client | None:
        """The client with this token, or None. Without tokens, everyone is one client."""
        if not self._tokens:
            return self._clients["all"]
        given = _digest(token)
        # Every token is compared, in constant time, so that timing reveals nothing.
        found = [name for name, digest in self._tokens if hmac.compare_digest(given, digest)]
        return self._clients[found[0]] if found else None

    async def start(self) -> None:
        """Opens the sandbox with the default limits, so that problems show at once.

        Raises:
            SandboxError: no sandbox can be used here.
        """
        usual = Limits()
        if self.settings.check_limits(usual) is not None:
            most = self.settings.max_wall_s
            usual = Limits(
                min(usual.wall_s, most), min(usual.cpu_s, most), min(usual.memory_mb, self.settings.max_memory_mb)
            )
        async with self.pools.use(usual) as box:
            async with box.session() as session:
                result = await session.run("print(1)")
            if not result.ok:
                raise SandboxError(f"the sandbox does not run a snippet: {result.status.value}: {result.error}")
        self.ready = True
        self._housekeeper = asyncio.create_task(self._keep_house())

    async def run(self, client: Client, session: Session, code: str) -> Result:
        """Runs a client's snippet when one of its slots is free.

        Raises:
            SandboxError: the sandbox broke, after its own retry.
        """
        self._in_flight += 1
        asked = time.monotonic()
        try:
            async with client.slots:
                result = await session.run(code)
        except SandboxError:
            self.metrics.errors.inc()
            raise
        finally:
            self._in_flight -= 1
        self.metrics.snippets.labels(client.name, result.status.value).inc()
        self.metrics.run_s.observe(result.duration_s)
        self.metrics.wait_s.observe(max(0.0, time.monotonic() - asked - result.duration_s))
        return result

    @contextlib.contextmanager
    def connected(self, client: Client):
        """Counts a connection."""
        client.connections += 1
        self.metrics.connections.labels(client.name).inc()
        try:
            yield
        finally:
            client.connections -= 1
            self.metrics.connections.labels(client.name).dec()

    async def drain(self) -> None:
        """Refuses new sessions, and waits until the open ones end or the time is up."""
        self.draining = True
        end = time.monotonic() + self.settings.drain_s
        while (self.sessions or self._in_flight) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_STEP_S)

    async def close(self) -> None:
        """Closes all sandboxes."""
        self.ready = False
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._housekeeper
        await self.pools.close()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            await self.pools.close_unused()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
