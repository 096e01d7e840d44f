"""Puts an engine under a mixed load with cancellations, and measures how fast it decodes.

    python benchmarks/engine_load.py MODEL --engine transformers --requests 5000

`mixed_load` sends generations of all lengths and settings, scores and bad requests at once, cancels some of them at
random moments, and checks that all others are answered correctly. `throughput` decodes many requests of one length.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import threading
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.engines import Completion, ContextOverflowError, Engine, EngineError, Sampling, load_engine

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Load:
    """The results of a mixed load."""

    requests: int
    answered: int
    cancelled: int
    refused: int
    """Bad requests, each refused with the right error."""
    tokens: int
    """Tokens decoded for those answered."""
    seconds: float
    slowest_s: float
    """The longest time of one request, including waiting."""
    threads: int
    """Threads more than before."""
    memory_mb: float
    """Resident memory more than after the first tenth of the requests."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens a second with so many requests at once."""

    requests: int
    tokens: int
    seconds: float
    tokens_per_s: float


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def mixed_load(
    engine: Engine, requests: int, *, in_flight: int = 256, seed: int = 0, patience_s: float = 300.0
) -> Load:
    """Sends a mixed load.

    Args:
        engine: any engine.
        requests: how many.
        in_flight: requests sent at once.
        seed: what they are depends on nothing else.
        patience_s: a request that takes longer counts as forgotten.

    Raises:
        TimeoutError: a request was forgotten.
        AssertionError: an answer is not what the same request gives alone.
    """
    rng = random.Random(seed)
    gate = asyncio.Semaphore(in_flight)
    vocabulary = engine.tokenizer.vocab_size - 3
    counts = {"answered": 0, "cancelled": 0, "refused": 0, "tokens": 0}
    samples: list[tuple[list[int], Sampling, Completion]] = []
    slowest, settled_mb, threads = 0.0, 0.0, threading.active_count()

    async def refused(call: Awaitable[object], error: type[EngineError]) -> None:
        try:
            await call
        except error:
            counts["refused"] += 1
        else:
            raise AssertionError("a bad request was answered")

    async def one(number: int, rng: random.Random) -> None:
        kind = rng.random()
        ids = [rng.randrange(vocabulary) for _ in range(int(rng.paretovariate(0.7)) % (engine.max_model_len // 2) + 1)]
        if kind < 0.05:
            await refused(engine.generate([*ids, 10**9], Sampling(5)), EngineError)
        elif kind < 0.1:
            await refused(engine.prompt_logprobs(ids * engine.max_model_len), ContextOverflowError)
        elif kind < 0.25:
            scores = await engine.choice_logprobs(ids, [1, 2])
            assert all(score <= 0 for score in scores)
        elif kind < 0.35:
            assert len(await engine.prompt_logprobs(ids)) == len(ids) - 1
        else:
            sampling = Sampling(
                max_tokens=rng.choice((1, 3, 10, 40, 150)),
                temperature=rng.choice((0.0, 0.0, 1.0)),
                top_p=rng.choice((1.0, 0.9)),
                top_k=rng.choice((0, 20)),
                stop=rng.choice(((), ("ing", "\n"), ("e",))),
                seed=number,
            )
            completion = await engine.generate(ids, sampling)
            counts["tokens"] += completion.sampled_tokens
            if rng.random() < 0.02:
                samples.append((ids, sampling, completion))
        counts["answered"] += kind >= 0.1

    async def watched(number: int) -> None:
        nonlocal slowest, settled_mb
        own = random.Random(rng.random())
        async with gate:
            if number == requests // 10:
                settled_mb = resident_mb()
            start = time.monotonic()
            call = asyncio.create_task(one(number, own))
            if own.random() < 0.2:
                await asyncio.wait([call], timeout=own.expovariate(5.0))
                call.cancel()
                await asyncio.wait([call], timeout=patience_s)
                if call.cancelled():
                    counts["cancelled"] += 1
                    return
            await asyncio.wait_for(call, patience_s)
            slowest = max(slowest, time.monotonic() - start)

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(requests):
            group.create_task(watched(number))
    seconds = time.monotonic() - start
    memory_mb = resident_mb() - settled_mb
    for ids, sampling, completion in samples[:40]:
        again = await engine.generate(ids, sampling)  # from the prefix cache now, if there is one
        assert dataclasses.replace(again, cached_tokens=completion.cached_tokens) == completion, (sampling, completion)
    return Load(
        requests,
        **counts,
        seconds=seconds,
        slowest_s=slowest,
        threads=threading.active_count() - threads,
        memory_mb=memory_mb,
    )


async def throughput(engine: Engine, requests: int, tokens: int) -> Throughput:
    """Decodes `tokens` tokens of each of so many requests at once, after a warm-up."""
    rng = random.Random(1)
    prompts = [[rng.randrange(engine.tokenizer.vocab_size - 3) for _ in range(50)] for _ in range(requests)]
    await asyncio.gather(*(engine.generate(prompt, Sampling(8, 1.0, seed=1)) for prompt in prompts))
    start = time.monotonic()
    done = await asyncio.gather(
        *(engine.generate(prompt, Sampling(tokens, 1.0, seed=n)) for n, prompt in enumerate(prompts))
    )
    seconds = time.monotonic() - start
    decoded = sum(completion.sampled_tokens for completion in done)
    return Throughput(requests, decoded, seconds, decoded / seconds)


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    engine = await load_engine(arguments.engine, arguments.model, max_num_seqs=32)
    try:
        speeds = [await throughput(engine, requests, 200) for requests in (1, 8, 32)]
        load = await mixed_load(engine, arguments.requests)
    finally:
        await engine.close()
    print(f"{'requests':>10} {'tokens':>8} {'seconds':>8} {'tokens/s':>9}")
    for speed in speeds:
        print(f"{speed.requests:>10} {speed.tokens:>8} {speed.seconds:>8.1f} {speed.tokens_per_s:>9.0f}")
    for name, value in dataclasses.asdict(load).items():
        print(f"{name:>10} {value:>8.1f}" if isinstance(value, float) else f"{name:>10} {value:>8}")
    return {
        "engine": arguments.engine,
        "tokens_per_s": {str(speed.requests): round(speed.tokens_per_s) for speed in speeds},
        "mixed_load": dataclasses.asdict(load),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or model id")
    parser.add_argument("--engine", default="transformers", choices=("transformers", "vllm"))
    parser.add_argument("--requests", type=int, default=5000, help="of the mixed load (default: 5000)")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/engine_load_ENGINE.json too")
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments))
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"engine_load_{arguments.engine}.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
