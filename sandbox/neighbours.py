"""What attackers cost their neighbours: the rate of honest chains beside two attackers, and beside two fair ones.

An attack may cost its neighbours what an honest snippet that takes as long would cost them, and no more. So the rate
beside the attackers is compared with the rate beside two sessions whose snippets are busy for as long as the attack
takes. (A snippet may use a processor up to its limit; where processors are short, honest code slows others down too.)
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
    """What eight honest chains got done beside two others."""

    attack: str
    fair_per_s: float
    """Honest snippets a second beside two fair sessions."""
    attacked_per_s: float
    """The same beside two attackers."""
    wrong: tuple[str, ...]
    """Honest results that were not right, and calls that ended in SandboxError."""
    guests_lost: int

    @property
    def kept(self) -> float:
        """The share of their rate that the honest chains kept."""
        return self.attacked_per_s / self.fair_per_s if self.fair_per_s else 0.0


async def neighbourhood(box: Sandbox, attack: Attack, seconds: float, slices: int = 2) -> Neighbourhood:
    """Measure one attack.

    Args:
        box: an open sandbox whose lanes are all started; with more lanes than attackers.
        attack: what the two attackers do over and over, in a new session each time.
        seconds: to measure for, on each side.
        slices: in how many parts, in alternation, as a machine's speed changes.
    """
    guests = box.guests_started
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
        box.guests_started - guests,
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
