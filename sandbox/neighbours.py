"""Measures what attackers cost their neighbours: the rate of honest chains beside attackers and beside fair sessions.

An attack may cost its neighbours as much as an honest snippet of the same duration, but no more. So the rate beside two
attackers is compared with the rate beside two sessions whose snippets are busy for as long as the attack takes. (A
snippet may use a processor up to its limit; with few processors, honest code slows others down too.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .attacks.model import Attack
from .box import Sandbox
from .results import SandboxError

_CHAINS = 8
_ATTACKERS = 2
_SNIPPETS = 4


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Rates of eight honest chains beside two other sessions."""

    attack: str
    fair_per_s: float
    """Honest snippets per second beside two fair sessions."""
    attacked_per_s: float
    """The same beside two attackers."""
    wrong: tuple[str, ...]
    """Wrong honest results, and calls that ended in SandboxError."""
    guests_lost: int

    @property
    def kept(self) -> float:
        """Rate beside attackers relative to the rate beside fair sessions."""
        return self.attacked_per_s / self.fair_per_s if self.fair_per_s else 0.0


async def neighbourhood(box: Sandbox, attack: Attack, seconds: float, slices: int = 2) -> Neighbourhood:
    """Measures one attack.

    Args:
        box: an open sandbox whose lanes are all started; with more lanes than attackers.
        attack: run repeatedly by the two attackers, in a new session each time.
        seconds: measuring time of each side.
        slices: number of alternating parts, because a machine's speed changes.
    """
    guests = box.guests_broken
    wrong: list[str] = []
    started = time.monotonic()
    await _attack_once(box, attack.code)
    took = (time.monotonic() - started) / len(attack.code)
    fair = (f"import time\nend = time.monotonic() + {took:.4f}\nwhile time.monotonic() < end: pass",) * len(attack.code)
    done = {False: 0, True: 0}
    spent = {False: 0.0, True: 0.0}
    for part in range(2 * slices):
        attacked = part % 2 == 1
        count, took_s = await _side(box, attack.code if attacked else fair, seconds / slices, wrong)
        done[attacked] += count
        spent[attacked] += took_s
    return Neighbourhood(
        attack.name,
        done[False] / spent[False],
        done[True] / spent[True],
        tuple(wrong),
        box.guests_broken - guests,
    )


async def _side(box: Sandbox, other: Sequence[str], seconds: float, wrong: list[str]) -> tuple[int, float]:
    started = time.monotonic()
    end = started + seconds
    done = 0

    async def honest() -> None:
        nonlocal done
        while time.monotonic() < end:
            async with box.session() as session:
                for count in range(_SNIPPETS):
                    try:
                        result = await session.run("n = globals().get('n', 0) + 1\nprint(n)")
                    except SandboxError as error:
                        wrong.append(str(error))
                        break
                    if result.stdout != f"{count + 1}\n":
                        wrong.append(f"{result.status.value} {result.error} {result.stdout[:80]!r}")
                        break
                    if time.monotonic() < end:
                        done += 1

    async def attacker() -> None:
        while time.monotonic() < end:
            await _attack_once(box, other)

    await asyncio.gather(*(honest() for _ in range(_CHAINS)), *(attacker() for _ in range(_ATTACKERS)))
    return done, seconds


async def _attack_once(box: Sandbox, code: Sequence[str]) -> None:
    async with box.session() as session:
        for snippet in code:
            await session.run(snippet)
