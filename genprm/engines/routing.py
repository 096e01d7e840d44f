"""Chooses a server for each request."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

REMEMBERED_CHAINS = 65_536
"""More than are ever in flight; a forgotten chain only loses its cached prefix."""

ASIDE_S = 15.0
"""How long a failed server is avoided before it is tried again."""


@dataclass(eq=False, slots=True)
class Server:
    """A server and its state."""

    base_url: str
    in_flight: int = 0
    failed: bool = False
    """Whether its last request failed."""
    aside_until: float = 0.0
    """Time on the router's clock when one request may try a failed server again."""


class Router:
    """Sends a chain where its prefix is cached, and a new one to the server with the fewest requests in flight.

    Args:
        servers: at least one.
        clock: seconds, monotonic.
    """

    def __init__(self, servers: Sequence[Server], clock: Callable[[], float] = time.monotonic) -> None:
        self.servers = tuple(servers)
        self._clock = clock
        self._homes: OrderedDict[str, Server] = OrderedDict()

    def pick(self, chain: str | None, tried: Collection[Server] = ()) -> Server | None:
        """Chooses a server for a request.

        Args:
            chain: its conversation, which then stays on the chosen server.
            tried: servers that already failed for it.

        Returns:
            None when all have been tried. An avoided server is chosen only when no other is left.
        """
        left = [server for server in self.servers if server not in tried]
        if not left:
            return None
        now = self._clock()
        # Only one request tests whether a failed server is back: if it hangs, the others do not.
        up = [s for s in left if not s.failed or (s.aside_until <= now and not s.in_flight)]
        home = self._homes.get(chain) if chain is not None else None
        if home is None or home not in up:
            home = min(up, key=lambda s: s.in_flight) if up else min(left, key=lambda s: s.aside_until)
        if chain is not None:
            self._homes[chain] = home
            self._homes.move_to_end(chain)
            if len(self._homes) > REMEMBERED_CHAINS:
                self._homes.popitem(last=False)
        return home

    def put_aside(self, server: Server) -> None:
        """Avoids a server for a while after a failure."""
        server.failed = True
        server.aside_until = self._clock() + ASIDE_S

    def restore(self, server: Server) -> None:
        """Ends the avoidance of a server after an answer."""
        server.failed = False
