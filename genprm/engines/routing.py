"""Which of several servers a request goes to."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

REMEMBERED_CHAINS = 65_536
"""More than are ever in flight; a chain that is forgotten only loses its cached prefix."""

ASIDE_S = 15.0
"""How long a server that failed is left alone before it is tried again."""


@dataclass(eq=False, slots=True)
class Server:
    """A server and what is known of it."""

    base_url: str
    in_flight: int = 0
    failed: bool = False
    """Whether its last request failed."""
    aside_until: float = 0.0
    """On the router's clock: when one request may try a failed server again."""


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
            chain: the conversation it belongs to, which from now on lives on the server chosen.
            tried: servers that already failed for it.

        Returns:
            None when all have been tried. A server that was put aside is chosen only when nothing else is left.
        """
        left = [server for server in self.servers if server not in tried]
        if not left:
            return None
        now = self._clock()
        # One request alone finds out whether a failed server is back: if it hangs, no other waits with it.
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
        """Prefers other servers for a while, after a failure."""
        server.failed = True
        server.aside_until = self._clock() + ASIDE_S

    def restore(self, server: Server) -> None:
        """Trusts a server again, after an answer."""
        server.failed = False
