"""Running the attacks, and the canary after each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from ..box import Sandbox
from ..limits import Limits
from ..results import Result, SandboxError, Status
from .model import ESCAPED, Attack

ATTACK_LIMITS = Limits(wall_s=1.0, cpu_s=2.0, memory_mb=256, output_kb=16)
"""Limits under which attacks run."""
_LATENCY_FACTOR = 3.0
_LATENCY_FLOOR_S = 0.05
_CANARIES = 5
"""Canary latencies below this reflect the machine, not the attack."""

# The first canary leaves a secret that later sessions must not find.
_CANARY = """
import builtins, decimal, fcntl, fractions, math, os, random, sys, time, types
import mpmath, numpy, sympy
canary = "canary" "-secret" "-of-another-session"
problems = []
def expect(name, value, wanted):
    if value != wanted:
        problems.append((name, value, wanted))
expect("names", sorted(n for n in globals() if n not in (
    "builtins", "decimal", "fcntl", "fractions", "math", "os", "random", "sys", "time", "types", "mpmath", "numpy",
    "sympy", "canary", "problems", "expect")), ["__builtins__", "__name__"])
expect("files", os.listdir("."), [])
expect("null", [fcntl.fcntl(fd, fcntl.F_GETFL) & ~0o100000 for fd in (0, 2)], [os.O_RDWR] * 2)
expect("print", type(builtins.print), types.BuiltinFunctionType)
expect("random", random.Random(5).random(), 0.6229016948897019)
expect("seeded", random.random(), 0.8444218515250481)
expect("precision", (decimal.getcontext().prec, mpmath.mp.dps), (28, 15))
expect("settings", (sys.getrecursionlimit(), os.environ["TZ"], os.environ.get("LD_PRELOAD"), hash("a")), (
    1000, "UTC", None, HASH))
x = sympy.Symbol("x")
expect("sympy", (str(sympy.factor(x**2 - 5*x + 6)), sympy.factorint(360), sympy.Integer(2) + 3), (
    "(x - 3)*(x - 2)", {2: 3, 3: 2, 5: 1}, 5))
expect("numpy", float(numpy.linalg.det(numpy.array([[2.0, 1.0], [1.0, 3.0]])).__round__(9)), 5.0)
expect("fractions", str(sum(fractions.Fraction(1, n) for n in range(1, 11))), "7381/2520")
expect("small integers", [n + 1 for n in (-2, 0, 7, 100)], [-1, 1, 8, 101])
print(problems or "clean")
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attack."""

    attack: Attack
    result: Result | None
    """Result of its last snippet; None if the sandbox broke."""
    failures: tuple[str, ...]
    """Why it is not contained; empty if it is."""
    canary_s: float

    @property
    def contained(self) -> bool:
        """Whether the sandbox held."""
        return not self.failures


async def _guests(box: Sandbox) -> int:
    """Guests started so far, by this sandbox and by the service behind it if there is one."""
    return box.guests_started + sum(lane.get("guests", 0) for lane in await box.stats())


class _Neighbour:
    """An honest session that exists before an attack and continues after it, in the same guest."""

    def __init__(self, box: Sandbox) -> None:
        self._session = box.session()
        self._count = 0

    async def step(self) -> float:
        """Counts one further and returns the seconds it took. Raises SandboxError if its state has changed."""
        self._count += 1
        started = time.perf_counter()
        result = await self._session.run("count = globals().get('count', 0) + 1\nprint(count)")
        if result.stdout != f"{self._count}\n":
            raise SandboxError(f"a neighbour's state: {result.status.value} {result.error} {result.stdout[:80]!r}")
        return time.perf_counter() - started

    async def close(self) -> None:
        await self._session.close()


async def run_attacks(box: Sandbox, attacks: Iterable[Attack]) -> AsyncIterator[Outcome]:
    """Runs attacks in turn on an open sandbox with one lane, under `ATTACK_LIMITS`.

    An attack is contained when it did not print ESCAPED, it ended in time with an allowed status, the guest is still
    the same one, and neither while its session is idle nor after its end is there an extra process, file or descriptor,
    a running idle process, or a neighbour whose state or speed has suffered.

    Raises:
        SandboxError: the sandbox does not even serve the canary before the first attack.
    """
    canary = await _make_canary(box)
    neighbour = _Neighbour(box)
    try:
        usual_s = sorted([await _time_canary(box, canary) for _ in range(5)])[2]
        step_s = sorted([await neighbour.step() for _ in range(5)])[2]
        before = (await box.stats())[0]
        for attack in attacks:
            guests = await _guests(box)
            failures: list[str] = []
            result = None
            session = box.session()
            try:
                for code in attack.code:
                    result = await session.run(code)
                    if ESCAPED in result.stdout or ESCAPED in (result.error or ""):
                        failures.append(f"it got through: {result.stdout.strip()[:200]}")
                failures += await _at_rest(box, neighbour, step_s, before)
            except SandboxError as error:
                failures.append(f"the sandbox broke: {error}")
            finally:
                await session.close()
            if result is not None and result.status not in attack.allowed:
                failures.append(f"ended as {result.status.value} ({result.error}), not {_words(attack.allowed)}")
            if result is not None and result.duration_s > attack.longest_s:
                failures.append(f"ran for {result.duration_s:.2f} s, longer than {attack.longest_s:g} s")
            took, problems = await _look_after(box, canary, usual_s, before)
            if await _guests(box) != guests:
                problems.append("the guest was lost")
                await neighbour.close()
                neighbour = _Neighbour(box)
            yield Outcome(attack, result, tuple(failures + problems), took)
    finally:
        await neighbour.close()


async def _at_rest(box: Sandbox, neighbour: _Neighbour, usual_s: float, before: dict[str, int]) -> list[str]:
    """Effects of an idle session on others."""
    problems: list[str] = []
    took = 0.0
    allowed_s = max(_LATENCY_FACTOR * usual_s, _LATENCY_FLOOR_S)
    for _ in range(_CANARIES):
        took = await neighbour.step()
        if took <= allowed_s:
            break
    else:
        problems.append(f"canary took {took * 1000:.0f} ms beside it, usually {usual_s * 1000:.0f} ms")
    (lane, *_) = await box.stats()
    for name in ("strays", "awake"):
        if lane[name]:
            problems.append(f"{name} while it rests: {lane[name]}")
    if lane["sessions"] > before["sessions"] + 1:
        problems.append(f"sessions while it rests: {lane['sessions']}")
    return problems


async def _look_after(box: Sandbox, canary: str, usual_s: float, before: dict[str, int]) -> tuple[float, list[str]]:
    """What the attack left behind, seen from a fresh session and from the supervisor."""
    problems: list[str] = []
    took = 0.0
    allowed_s = max(_LATENCY_FACTOR * usual_s, _LATENCY_FLOOR_S)
    try:
        for _ in range(_CANARIES):  # a busy machine may be slow once
            took = await _time_canary(box, canary)
            if took <= allowed_s:
                break
        else:
            problems.append(f"canary took {took * 1000:.0f} ms, usually {usual_s * 1000:.0f} ms")
        lanes = await box.stats()
        if len(lanes) != 1:
            problems.append(f"{len(lanes)} lanes instead of one")
        for name in ("processes", "strays", "awake", "zombies", "sessions", "scratch_entries", "descriptors"):
            if lanes[0][name] > before[name]:
                problems.append(f"{name}: {lanes[0][name]}, before {before[name]}")
    except SandboxError as error:
        problems.append(f"canary: {error}")
    return took, problems


async def _make_canary(box: Sandbox) -> str:
    async with box.session() as session:
        result = await session.run("print(hash('a'))")
    return _CANARY.replace("HASH", result.stdout.strip())


async def _time_canary(box: Sandbox, canary: str) -> float:
    tries = 0
    while True:
        tries += 1
        started = time.perf_counter()
        async with box.session() as session:
            result = await session.run(canary)
        if result.stdout == "clean\n" and result.status is Status.OK:
            return time.perf_counter() - started
        if result.status is not Status.TIMEOUT or tries == _CANARIES:
            raise SandboxError(f"canary: {result.status.value} {result.error} {result.stdout[:500]}")


def _words(statuses: frozenset[Status]) -> str:
    return " or ".join(sorted(status.value for status in statuses))
