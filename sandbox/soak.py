"""A long mixed load: mostly honest snippets with known answers, and some attacks."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from .attacks import ATTACKS
from .attacks.model import ESCAPED, Attack
from .box import Sandbox
from .results import Result, SandboxError, Status

_SESSION_SNIPPETS = 4
"""Snippets per session, as in a chain."""
_QUICK_ATTACKS = tuple(
    one for one in ATTACKS if Status.TIMEOUT not in one.allowed and Status.OUTPUT_LIMIT not in one.allowed
)
_SLOW_ATTACKS = tuple(one for one in ATTACKS if one not in _QUICK_ATTACKS)
_SLOW_SHARE = 0.02
"""Share of attacks that run into their time limit; small, because the soak is about volume, not waiting."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Resource counts of the guests and this process at one moment."""

    guest_processes: int
    guest_zombies: int
    guest_strays: int
    guest_descriptors: int
    guest_scratch_entries: int
    supervisors_kb: int
    zygotes_kb: int
    host_descriptors: int
    host_resident_kb: int


@dataclass(frozen=True, slots=True)
class SoakReport:
    """Results of a soak."""

    snippets: int
    attacks: int
    wrong: tuple[str, ...]
    """Honest snippets with wrong results, and attacks that succeeded."""
    errors: tuple[str, ...]
    """Calls that ended in SandboxError."""
    guests_lost: int
    """Guests restarted during the soak, apart from worn ones."""
    seconds: float
    before: Footprint
    after: Footprint


async def footprint(box: Sandbox) -> Footprint:
    """Counts everything that could leak."""
    guests = await box.stats()

    def total(name: str) -> int:
        return sum(guest[name] for guest in guests)

    return Footprint(
        guest_processes=total("processes"),
        guest_zombies=total("zombies"),
        guest_strays=total("strays"),
        guest_descriptors=total("descriptors"),
        guest_scratch_entries=total("scratch_entries"),
        supervisors_kb=total("resident_kb"),
        zygotes_kb=total("zygote_kb"),
        host_descriptors=len(os.listdir("/proc/self/fd")),
        host_resident_kb=_resident_kb(),
    )


def _resident_kb() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 10


async def soak(
    box: Sandbox, snippets: int, *, sessions: int = 4, seed: int = 0, attacks_share: float = 0.1
) -> SoakReport:
    """Runs snippets, including attacks, in several concurrent sessions.

    Args:
        box: an open sandbox.
        snippets: total number of snippets.
        sessions: number of concurrent sessions.
        seed: seed of the choice of snippets and attacks.
        attacks_share: share of attacks among the snippets, from 0 to 1.
    """
    chance = random.Random(seed)
    wrong: list[str] = []
    errors: list[str] = []
    done = attacks = 0

    async def chain() -> None:
        nonlocal done, attacks
        async with box.session() as session:
            total: int | None = None
            for _ in range(_SESSION_SNIPPETS):
                if done >= snippets:
                    return
                done += 1
                if chance.random() < attacks_share:
                    attacks += 1
                    # In a separate session: it may exhaust what this one relies on.
                    await _attack(box, _choose(chance), wrong)
                    continue
                addend = chance.randrange(1000)
                code, answer = _question(chance)
                # The running sum reveals a lost or repeated snippet.
                state = f"total = {addend}" if total is None else f"total += {addend}"
                total = (total or 0) + addend
                result = await session.run(f"{state}\n{code}\nprint(total)")
                if not result.ok or result.stdout != f"{answer}\n{total}\n":
                    wrong.append(f"{code!r}: {_brief(result)}, not {answer!r} and {total}")

    async def work() -> None:
        while done < snippets:
            try:
                await chain()
            except SandboxError as error:
                errors.append(str(error))

    async with box.session() as session:
        await session.run("print(1)")
    before = await footprint(box)
    guests = box.guests_broken
    started = time.monotonic()
    await asyncio.gather(*(work() for _ in range(sessions)))
    seconds = time.monotonic() - started
    after = await footprint(box)
    lost = box.guests_broken - guests
    return SoakReport(done, attacks, tuple(wrong), tuple(errors), lost, seconds, before, after)


def _choose(chance: random.Random) -> Attack:
    return chance.choice(_SLOW_ATTACKS if chance.random() < _SLOW_SHARE else _QUICK_ATTACKS)


async def _attack(box: Sandbox, attack: Attack, wrong: list[str]) -> None:
    async with box.session() as session:
        result = None
        for code in attack.code:
            result = await session.run(code)
            if ESCAPED in result.stdout:
                wrong.append(f"attack {attack.name}: {_brief(result)}")
        # A lane shared with other sessions may be slow, so a timeout is not a failure here.
        if result is not None and result.status not in attack.allowed | {Status.TIMEOUT}:
            wrong.append(f"attack {attack.name}: {_brief(result)}")


def _question(chance: random.Random) -> tuple[str, str]:
    """Code and its expected output."""
    a, b, n = chance.randrange(2, 10_000), chance.randrange(2, 10_000), chance.randrange(2, 60)
    kind = chance.randrange(6)
    if kind == 0:
        return f"print({a} * {b})", str(a * b)
    if kind == 1:
        return f"import math\nprint(math.gcd({a}, {b}), math.comb({n}, 2))", f"{math.gcd(a, b)} {n * (n - 1) // 2}"
    if kind == 2:
        return f"from fractions import Fraction\nprint(Fraction({a}, {b}) + 1)", str(Fraction(a, b) + 1)
    if kind == 3:
        return f"import sympy\nprint(sympy.expand((sympy.Symbol('x') + {n})**2))", f"x**2 + {2 * n}*x + {n * n}"
    if kind == 4:
        return f"import sympy\nprint(sympy.solve(sympy.Symbol('x') - {a}))", f"[{a}]"
    return f"import numpy\nprint(int(numpy.arange({n}).sum()))", str(n * (n - 1) // 2)


def _brief(result: Result) -> str:
    return f"{result.status.value} {result.error} {result.stdout[:200]!r}"
