"""Resource limits of snippets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one snippet. Reaching one is a `Result`, not an error."""

    wall_s: float = 5.0
    """Wall time in seconds (5 as in GenPRM's released code)."""
    cpu_s: float = 5.0
    """Seconds of CPU time, rounded up to whole seconds by the kernel."""
    memory_mb: int = 1024
    """MiB of address space of a session, without the interpreter and its loaded libraries."""
    output_kb: int = 64
    """KiB of output kept, half from the head and half from the tail. Killed past 16 times this (at least 8 MiB)."""

    def __post_init__(self) -> None:
        if not 0 < self.wall_s <= 3600 or not 0 < self.cpu_s <= 3600:
            raise ValueError(f"wall_s and cpu_s must be above 0 and at most 3600 seconds: {self!r}")
        if not 64 <= self.memory_mb <= 1 << 20:
            raise ValueError(f"memory_mb must be between 64 and {1 << 20}: {self!r}")
        if not 1 <= self.output_kb <= 1 << 14:
            raise ValueError(f"output_kb must be between 1 and {1 << 14}: {self!r}")
