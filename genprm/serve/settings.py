"""The configuration of a service."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from genprm.fields import Config, Option
from genprm.rewards import WEIGHT

KEYS_VARIABLE = "GENPRM_API_KEYS"
"""Environment variable with the accepted keys, separated by commas."""


class ServeError(RuntimeError):
    """The service cannot be started with this configuration."""


class ServeConfig(Config):
    """Settings of the service."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8311, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    no_auth: bool = Field(default=False, description="Serve other machines without a key.")
    ui: bool = Field(default=False, description="Serve a page at / for judging and browsing runs.")
    runs: Path | None = Field(default=None, description="Folder of the runs that the page lists.")
    log_to: Path | None = Field(
        default=None, description="A run's folder to keep every judgement in. By default nothing is stored."
    )
    max_in_flight: int | None = Field(
        default=None, ge=1, le=100_000, description="Solutions judged at once; default: enough to fill the engine."
    )
    queue: int = Field(default=1024, ge=1, le=1_000_000, description="Most waiting solutions; then clients get 429.")
    deadline_s: float = Field(
        default=600.0, gt=0, le=86_400, description="Longest and default deadline of a request, in seconds."
    )
    max_body_mb: float = Field(default=8.0, gt=0, le=1024, description="Largest body of a request, in MiB.")
    max_items: int = Field(default=256, ge=1, le=100_000, description="Most solutions in a request.")
    max_steps: int = Field(default=256, ge=1, le=100_000, description="Most steps of a solution.")
    max_chars: int = Field(
        default=200_000, ge=1, le=100_000_000, description="Most characters of a problem with its solution."
    )
    max_connections: int = Field(
        default=4096, ge=1, le=1_000_000, description="Most connections at once; further ones get 503."
    )
    reward_weight: float = Field(
        default=WEIGHT, ge=0, lt=1, description="Share of a right answer's reward that depends on its steps."
    )
    guards: bool = Field(
        default=True,
        description="Give no reward to solutions that imitate or address the judge, hide characters, or pad.",
    )
    drain_s: float = Field(
        default=60.0, ge=0, le=86_400, description="Seconds to finish accepted requests after SIGTERM."
    )
    dry_run: Annotated[bool, Option(flags=("--dry-run",), stored=False)] = Field(
        default=False, description="Print the resolved configuration and what would be loaded, then exit."
    )

    @model_validator(mode="after")
    def _runs_are_for_the_page(self) -> Self:
        if self.runs is not None and not self.ui:
            raise ValueError(f"runs {str(self.runs)!r} are for the page: add --ui")
        return self

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check_exposure(self, keys: tuple[str, ...]) -> None:
        """Prevents serving other machines without a key by accident.

        Raises:
            ServeError: other machines can reach the address, there is no key, and `no_auth` is not set.
        """
        if not (self.local or keys or self.no_auth):
            raise ServeError(
                f"{self.host!r} can be reached from other machines, but there is no key. Set {KEYS_VARIABLE} to one or "
                "more keys, or use --no-auth."
            )


def keys_from_environment() -> tuple[str, ...]:
    """The accepted keys; empty means no authentication."""
    return tuple(key for part in os.environ.get(KEYS_VARIABLE, "").split(",") if (key := part.strip()))
