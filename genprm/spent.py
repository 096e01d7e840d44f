"""Where the time of a run goes: what every call of the engine and of the sandbox took, counted for the whole process.

Calls overlap, so that the counts are seconds of chains: a hundred requests of a second each, side by side, are a
hundred seconds. The driver's own share is the CPU time of its thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """What a chain waits for."""

    ENGINE = "engine"
    """An answer of the model, its queue included."""
    SANDBOX = "sandbox"
    """A snippet's result, the sandbox's queue included."""
    WAITING = "waiting"
    """Room in the engine's cache: see `genprm.engines.admission`."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of chains in each part, and calls; `driver` is CPU time of the thread that asks."""

    engine: float = 0.0
    sandbox: float = 0.0
    waiting: float = 0.0
    driver: float = 0.0
    engine_calls: int = 0
    sandbox_calls: int = 0

    def since(self, before: Spent) -> Spent:
        """What was added after `before`."""
        return Spent(
            self.engine - before.engine,
            self.sandbox - before.sandbox,
            self.waiting - before.waiting,
            self.driver - before.driver,
            self.engine_calls - before.engine_calls,
            self.sandbox_calls - before.sandbox_calls,
        )


class spent_in:
    """Counts the time of a block: `with spent_in(Part.ENGINE): ...`."""

    __slots__ = ("_part", "_started")

    def __init__(self, part: Part) -> None:
        self._part = part

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        _seconds[self._part] += time.perf_counter() - self._started
        _calls[self._part] += 1


def spent_so_far() -> Spent:
    """The counts of this process. Call it in the thread that drives, whose CPU time it reads."""
    return Spent(
        _seconds[Part.ENGINE],
        _seconds[Part.SANDBOX],
        _seconds[Part.WAITING],
        time.thread_time(),
        _calls[Part.ENGINE],
        _calls[Part.SANDBOX],
    )


_seconds = dict.fromkeys(Part, 0.0)
_calls = dict.fromkeys(Part, 0)
