"""Settings of a sandbox service."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from ..limits import Limits

TOKENS_VARIABLE = "GENPRM_SANDBOX_TOKENS"
"""The environment variable with the tokens that clients may use: `token` or `name:token`, separated by commas."""
SHORTEST_TOKEN = 16


class ServiceError(RuntimeError):
    """The service cannot be started with these settings."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Address, sandbox, and quotas."""

    host: str = "127.0.0.1"
    port: int = 8312
    """0 takes a free one."""
    socket: Path | None = None
    """A Unix socket to listen on instead of host and port."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tokens: tuple[tuple[str, str], ...] = ()
    """(name, token) of every client; empty to serve every client that reaches the service."""
    no_auth: bool = False
    """Whether to serve other machines without tokens."""
    sandbox: str = "auto"
    runtime: str | None = None
    lanes: int | None = None
    """Most concurrent snippets; the number of cores by default."""
    client_lanes: int | None = None
    """Most concurrent snippets of one client; the number of lanes by default."""
    client_sessions: int = 4096
    """Most open sessions of one client."""
    max_wall_s: float = 120.0
    max_memory_mb: int = 4096
    """Largest limits that a client may ask for; the limit on wall time also bounds CPU time."""
    drain_s: float = 60.0
    """Seconds for open sessions to end after SIGTERM."""

    def check(self) -> None:
        """Checks the settings.

        Raises:
            ServiceError: it cannot, or everybody who reaches the address could run code here.
        """
        for name in ("lanes", "client_lanes", "client_sessions", "max_memory_mb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ServiceError(f"{name} must be at least 1, not {value!r}")
        if not 0 < self.max_wall_s <= 3600 or self.drain_s < 0:
            raise ServiceError(f"max_wall_s must be above 0 and at most 3600, drain_s at least 0: {self!r}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ServiceError("TLS needs both files: --tls-cert and --tls-key")
        for file in (self.tls_cert, self.tls_key):
            if file is not None and not os.access(file, os.R_OK):
                raise ServiceError(f"the TLS file {str(file)!r} cannot be read")
        if self.sandbox not in ("auto", "docker", "podman", "bubblewrap"):
            raise ServiceError(f"a service runs snippets on its own machine, not in the sandbox {self.sandbox!r}")
        names = [name for name, _ in self.tokens]
        if len(set(names)) != len(names):
            raise ServiceError(f"two tokens of {TOKENS_VARIABLE} have the same name")
        for name, token in self.tokens:
            if len(token) < SHORTEST_TOKEN:
                raise ServiceError(
                    f"the token of {name!r} has fewer than {SHORTEST_TOKEN} characters: try `openssl rand -hex 24`"
                )
        if not self.local and not self.tokens and not self.no_auth:
            raise ServiceError(
                f"every machine that reaches {self.host!r} could run code: set {TOKENS_VARIABLE}, or give "
                "--no-auth where a network policy lets nobody else in"
            )

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.socket is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check_limits(self, limits: Limits) -> str | None:
        """Why a client may not have these limits; None if it may."""
        longest = max(limits.wall_s, limits.cpu_s)
        if longest > self.max_wall_s:
            return f"this service runs snippets for at most {self.max_wall_s:g} s (--max-wall-s), not {longest:g}"
        if limits.memory_mb > self.max_memory_mb:
            return f"this service gives at most {self.max_memory_mb} MiB (--max-memory-mb), not {limits.memory_mb}"
        return None


def tokens_from_environment() -> tuple[tuple[str, str], ...]:
    """Names and tokens of clients from the environment."""
    found: list[tuple[str, str]] = []
    for number, part in enumerate(os.environ.get(TOKENS_VARIABLE, "").split(","), start=1):
        name, colon, token = part.strip().rpartition(":")
        if token:
            found.append((name if colon and name else f"client-{number}", token))
    return tuple(found)
