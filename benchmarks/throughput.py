"""Chains per second: one at a time, in lock-step rounds, and as genprm schedules them.

`python benchmarks/throughput.py --engine vllm --save` judges the same solutions in each way, on one engine, in one run:

* one_at_a_time: a chain after the other, as GenPRM's released script goes;
* lock_step: batches of chains that all generate, then all run their code, round by round, as batch-synchronous tool
  loops do: no chain starts a round before all have finished the last;
* ours: every chain is a separate coroutine;
* replayed: ours with the sandbox's answers from memory, which is the same work for the model alone;
* bound: the requests of `ours` again, chain by chain, with no protocol, no sandbox and no driver between: the same
  prompts, found in the prefix cache as far as then, and as many tokens to write. Nothing that asks the same can be
  faster on this engine.

`ours`, `replayed` and `bound` judge the same solutions, each with an empty prefix cache. What is reported is the share
of the bound that is reached, and where the time of the chains went.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.config import Mode
from genprm.engines import BUILT_IN, load_engine
from genprm.engines.base import Completion, Engine, Sampling
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.profiles import read_profile
from genprm.sandbox import Result, open_sandbox
from genprm.spent import Spent, spent_so_far
from genprm.types import Judgement

Row = tuple[str, list[str]]
judged_row: ContextVar[int] = ContextVar("judged_row")
"""The number of the solution that is being judged: chains of one problem have one name."""
STEPS = (18, 90, 169, 187, 154, 98, 90, 52, 39, 27, 25, 13, 10, 8, 9)
"""How many solutions of ProcessBench's MATH subset have 2, 3, 4, ... steps; eleven longer ones are left out."""


def solutions(count: int, seed: int) -> list[Row]:
    """Arithmetic solutions, as long as real ones are."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for _ in range(count):
        total = rng.randint(10, 99)
        steps = [f"At first there are {total} apples."]
        for _ in range(rng.choices(range(1, len(STEPS) + 1), STEPS)[0]):
            sign, number = rng.choice("+-*" if total < 500 else "+-"), rng.randint(2, 20)
            new = {"+": total + number, "-": total - number, "*": total * number}[sign]
            shown = new + (rng.randint(1, 9) if rng.random() < 0.1 else 0)
            steps.append(f"Then there are {total}{sign}{number} = {shown} apples.")
            total = max(new, 21)
        rows.append(("How many apples are there in the end?", steps))
    return rows


class LockStep:
    """A barrier: holds all participants until they reach the same point, in every round."""

    def __init__(self, parties: int) -> None:
        self._parties, self._waiting, self._open = parties, 0, asyncio.Event()

    async def round(self) -> None:
        self._waiting += 1
        gate = self._open
        self._release()
        await gate.wait()

    def leave(self) -> None:
        self._parties -= 1
        self._release()

    def _release(self) -> None:
        if self._waiting and self._waiting >= self._parties:
            self._open.set()
            self._open, self._waiting = asyncio.Event(), 0


class HeldEngine:
    """An engine whose calls go in rounds."""

    def __init__(self, engine: Engine, gate: LockStep) -> None:
        self._engine, self._gate = engine, gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        await self._gate.round()
        return await self._engine.generate(*args, **kwargs)

    async def choice_logprobs(self, *args: Any, **kwargs: Any) -> Any:
        await self._gate.round()
        return await self._engine.choice_logprobs(*args, **kwargs)


class WrappedSandbox:
    """A sandbox each of whose runs goes through `run(session, earlier sources, source)`."""

    def __init__(self, box: Any, run: Callable[[Any, tuple[str, ...], str], Awaitable[Result]]) -> None:
        self._box, self._run = box, run

    @asynccontextmanager
    async def session(self) -> Any:
        async with self._box.session() as session:
            yield _WrappedSession(session, self._run)


class _WrappedSession:
    def __init__(self, session: Any, run: Callable[[Any, tuple[str, ...], str], Awaitable[Result]]) -> None:
        self._session, self._run, self._earlier = session, run, ()

    async def run(self, source: str) -> Result:
        earlier, self._earlier = self._earlier, (*self._earlier, source)
        return await self._run(self._session, earlier, source)


class Memory:
    """Remembers what the sandbox answered, and answers the same again."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, ...], Result] = {}

    async def record(self, session: Any, earlier: tuple[str, ...], source: str) -> Result:
        result = await session.run(source)
        self.known[(*earlier, source)] = result
        return result

    async def replay(self, session: Any, earlier: tuple[str, ...], source: str) -> Result:
        known = self.known.get((*earlier, source))
        return known if known is not None else await session.run(source)


class Recorder:
    """An engine that remembers what each chain asked, in order, and how many tokens were written."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.chains: dict[int, list[tuple[list[int], Sampling]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        done = await self._engine.generate(prompt_ids, sampling, chain=chain)
        # As many tokens as were written, with nothing to look for in them: their text need not be made.
        flat = dataclasses.replace(sampling, max_tokens=done.sampled_tokens, stop=(), watch=())
        self.chains.setdefault(judged_row.get(), []).append((list(prompt_ids), flat))
        return done

    @property
    def tokens(self) -> int:
        """Tokens written."""
        return sum(flat.max_tokens for asked in self.chains.values() for _, flat in asked)


async def flat_bound(engine: Engine, recorded: Recorder, chains: int) -> tuple[float, int]:
    """Seconds for the recorded requests with so many chains in flight, and the tokens that were written."""
    slots, written = asyncio.Semaphore(chains), 0

    async def one(asked: Sequence[tuple[list[int], Sampling]]) -> None:
        nonlocal written
        async with slots:
            for prompt, flat in asked:
                done = await engine.generate(prompt, flat)
                written += done.sampled_tokens

    started = time.perf_counter()
    await asyncio.gather(*(one(asked) for asked in recorded.chains.values()))
    return time.perf_counter() - started, written


async def forget(engine: Engine) -> None:
    """Empties the prefix cache, where there is one."""
    if (llm := getattr(engine, "llm", None)) is not None:
        await llm.reset_prefix_cache()


async def concurrent(prm: GenPRM, rows: Sequence[Row], chains: int) -> tuple[float, list[Judgement], Spent]:
    """Seconds for the rows with so many chains in flight, what was found, and where the time went."""
    slots = asyncio.Semaphore(chains)

    async def one(number: int, row: Row) -> Judgement:
        judged_row.set(number)
        async with slots:
            return await prm.judge(*row)

    started, before = time.perf_counter(), spent_so_far()
    judged = await asyncio.gather(*(one(number, row) for number, row in enumerate(rows)))
    return time.perf_counter() - started, judged, spent_so_far().since(before)


def shares(spent: Spent, seconds: float, chains: int) -> dict[str, float]:
    """Where the time of the chains in flight went: parts of 1, and the part of a core that the driver's thread took."""
    total = seconds * chains
    rest = total - spent.engine - spent.sandbox - spent.waiting
    parts = {"engine": spent.engine, "sandbox": spent.sandbox, "waiting": spent.waiting, "driver": rest}
    return {name: round(part / total, 3) for name, part in parts.items()} | {
        "driver_core": round(spent.driver / seconds, 3)
    }


async def lock_step(make: Callable[..., GenPRM], engine: Engine, box: Any, rows: Sequence[Row], chains: int) -> float:
    """Seconds for the rows in batches that go round by round."""
    started = time.perf_counter()
    for start in range(0, len(rows), chains):
        batch = rows[start : start + chains]
        gate = LockStep(len(batch))

        async def held(session: Any, earlier: tuple[str, ...], source: str, gate: LockStep = gate) -> Result:
            await gate.round()
            return await session.run(source)

        async def one(row: Row, prm: GenPRM, gate: LockStep = gate) -> None:
            try:
                await prm.judge(*row)
            finally:
                gate.leave()

        prm = make(HeldEngine(engine, gate), WrappedSandbox(box, held))
        await asyncio.gather(*(one(row, prm) for row in batch))
    return time.perf_counter() - started


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures: method -> chains at once -> chains a second."""
    model = options.model or str(BUILT_IN["nano"])
    known = read_profile(model)
    extra = {"max_num_seqs": max(options.chains)} if options.engine == "vllm" else {}
    engine = await load_engine(options.engine, model, **extra)

    def make(engine: Any, box: Any) -> GenPRM:
        return GenPRM(engine, box, mode=Mode.EXECUTE, profile=known.profile, sampling=known.sampling)

    figures: dict[str, Any] = {"lock_step": {}, "ours": {}, "replayed": {}, "bound": {}, "time": {}}
    figures["load_before"] = os.getloadavg()[0]
    try:
        async with open_sandbox(options.sandbox) as box:
            plain = make(engine, box)
            await concurrent(plain, solutions(8, 999), 8)
            few = solutions(options.alone, options.seed)
            started = time.perf_counter()
            for row in few:
                await plain.judge(*row)
            figures["one_at_a_time"] = round(len(few) / (time.perf_counter() - started), 2)
            for chains in options.chains:
                await measure_at(chains, figures, make, engine, box, options)
            if options.delay_rows:
                figures["delay"] = await delayed(make, engine, box, options)
            figures["sandbox"] = box.backend
    finally:
        await engine.close()
    figures["engine"] = options.engine
    return figures


async def measure_at(
    chains: int, figures: dict[str, Any], make: Callable[..., GenPRM], engine: Engine, box: Any, options: Any
) -> None:
    """All ways with so many chains in flight: adds them to the figures."""
    # Many more solutions than go at once: the last few, which leave the engine half empty, count little then.
    count = max(options.alone, min(options.rows, 12 * chains))
    key = str(chains)
    await forget(engine)
    seconds = await lock_step(make, engine, box, solutions(count, options.seed + 10 * chains), chains)
    figures["lock_step"][key] = round(count / seconds, 2)
    rows, memory, recorder = solutions(count, options.seed + 10 * chains + 1), Memory(), Recorder(engine)
    await forget(engine)
    seconds, judged, spent = await concurrent(make(recorder, WrappedSandbox(box, memory.record)), rows, chains)
    figures["ours"][key] = round(count / seconds, 2)
    figures["time"][key] = shares(spent, seconds, chains)
    requests, steps = sum(one.tokens.requests for one in judged), sum(len(one.steps) for one in judged)
    figures["requests_per_step"] = round(requests / steps, 3)
    # Each is followed by the bound on the same solutions: the machine's own rate moves.
    await forget(engine)
    seconds, _, _ = await concurrent(make(engine, WrappedSandbox(box, memory.replay)), rows, chains)
    figures["replayed"][key] = round(count / seconds, 2)
    await forget(engine)
    seconds, written = await flat_bound(engine, recorder, chains)
    figures["bound"][key] = round(count / seconds, 2)
    if abs(written - recorder.tokens) > 0.02 * recorder.tokens:
        print(
            f"the bound wrote {written} tokens, ours {recorder.tokens}: the bound is not of the same work", flush=True
        )
    print(chains, {name: figures[name][key] for name in ("lock_step", "ours", "replayed", "bound", "time")}, flush=True)


async def delayed(make: Callable[..., GenPRM], engine: Engine, box: Any, options: argparse.Namespace) -> dict[str, Any]:
    """What a second more in every snippet costs, when more chains are in flight than the engine decodes at once."""

    async def late(session: Any, earlier: tuple[str, ...], source: str) -> Result:
        await asyncio.sleep(1.0)
        return await session.run(source)

    figures: dict[str, Any] = {"rows": options.delay_rows, "in_flight": options.delay_chains}
    for name, sandbox in (("none", box), ("one_second", WrappedSandbox(box, late))):
        rows = solutions(options.delay_rows, options.seed + 7 + len(name))
        seconds, _, _ = await concurrent(make(engine, sandbox), rows, options.delay_chains)
        steps = sum(len(steps) for _, steps in rows)
        figures[name] = round(steps / seconds, 2)
    figures["loss"] = round(1 - figures["one_second"] / figures["none"], 3)
    return figures


def main() -> None:
    """Measures, prints, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--model", help="folder or model id of a GenPRM; the built-in one by default")
    parser.add_argument("--sandbox", default="auto", choices=["auto", "docker", "bubblewrap"])
    parser.add_argument("--chains", type=int, nargs="+", default=[8, 32, 128, 512])
    parser.add_argument("--rows", type=int, default=1536, help="most solutions a measurement")
    parser.add_argument("--alone", type=int, default=12, help="solutions judged one at a time")
    parser.add_argument("--delay-rows", type=int, default=0, help="solutions for the measurement with slow snippets")
    parser.add_argument("--delay-chains", type=int, default=384, help="solutions in flight in that measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/throughput.json")
    options = parser.parse_args()
    figures = asyncio.run(measure(options))
    alone = figures["one_at_a_time"]
    names = ("lock_step", "ours", "replayed", "bound")
    print(f"{'chains at once':>15}", *(f"{name:>10}" for name in (*names, "to alone", "of bound", "replayed of bound")))
    for chains, ours in figures["ours"].items():
        bound = figures["bound"][chains]
        print(
            f"{chains:>15}",
            *(f"{figures[name][chains]:>10}" for name in names),
            f"{ours / alone:>9.1f}x {ours / bound:>10.1%} {figures['replayed'][chains] / bound:>17.1%}",
        )
    print("\nwhere the time of the chains goes; driver_core is the share of one core that the driver's thread takes")
    for chains, time_shares in figures["time"].items():
        print(f"{chains:>15}", " ".join(f"{name} {share:.1%}" for name, share in time_shares.items()))
    print(f"requests a step: {figures['requests_per_step']}; load before the run: {figures['load_before']:.1f}")
    print(f"one at a time: {alone} chains a second")
    if "delay" in figures:
        print(f"a second more in every snippet: {figures['delay']}")
    line = json.dumps(figures)
    if options.save:
        path = Path(__file__).parent / "results" / "throughput.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
