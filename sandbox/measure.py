"""Measures the sandbox: latency and rate of fresh sessions with typical checking code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .box import Sandbox
from .results import SandboxError

SNIPPETS = {
    "trivial": "print(1 + 1)",
    "number-theory": "from sympy import factorint, totient, divisors, isprime\n"
    "print(factorint(1234567), totient(9240), len(divisors(720720)), isprime(1000003))",
    "linear-algebra": "from sympy import Matrix\nm = Matrix([[2, 1, 3], [1, 4, 1], [5, 2, 7]])\n"
    "print(m.det(), m.inv(), m.rank())",
    "simplify-solve": "from sympy import symbols, expand, simplify, solve\nx = symbols('x')\n"
    "print(expand((x + 3)*(2*x - 5)), simplify((x**3 - 27)/(x - 3)), solve(3*x**2 - 14*x + 8, x))",
    "integrate": "from sympy import symbols, integrate, diff, simplify, limit, sin, exp, oo\nx = symbols('x')\n"
    "f = integrate(x**2*exp(-2*x), x)\nprint(f, simplify(diff(f, x)), limit(f, x, oo), integrate(x*sin(3*x), x))",
}
"""Checking code of five sizes, none of it in the guest's warm-up."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Latency of single executions, and total rate."""

    p50_ms: float
    p99_ms: float
    per_s: float
    count: int


async def measure(once: Callable[[], Awaitable[None]], workers: int, seconds: float, least: int = 5) -> Figures:
    """Runs `once` repeatedly in several workers for a time, and at least a number of times each."""
    took: list[float] = []
    started = time.perf_counter()

    async def work() -> None:
        done = 0
        while time.perf_counter() - started < seconds or done < least:
            began = time.perf_counter()
            await once()
            took.append(time.perf_counter() - began)
            done += 1

    await asyncio.gather(*(work() for _ in range(workers)))
    wall = time.perf_counter() - started
    took.sort()
    return Figures(
        p50_ms=took[len(took) // 2] * 1000,
        p99_ms=took[min(len(took) - 1, int(len(took) * 0.99))] * 1000,
        per_s=len(took) / wall,
        count=len(took),
    )


async def measure_sessions(box: Sandbox, code: str, workers: int, seconds: float) -> Figures:
    """Measures a chain's first snippet, including its session."""

    async def once() -> None:
        async with box.session() as session:
            result = await session.run(code)
        if not result.ok:
            raise SandboxError(f"a benchmark snippet ended with {result.status.value}: {result.error}")

    await once()
    return await measure(once, workers, seconds)
