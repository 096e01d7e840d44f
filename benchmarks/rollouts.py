"""Rollouts per second with vLLM's prefix cache, and without.

`python benchmarks/rollouts.py --save` values every prefix of the same solutions with the same number of rollouts of the
built-in policy, first on an engine that shares prefixes and then on one that does not: the same prompts, seeds and
number in flight. The word problems are asked alone (`plain`) and after three solved ones (`few-shot`), which gives
prompts of a usual length. Each round has its own problems, so that the cache holds only what the round put there.
Answers are not compared: that is the same work on both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.data.word_problems import WordProblem, make_problems
from genprm.engines import Completion, Engine, Sampling, load_engine
from genprm.rpe.rollouts import rollout_prompt

SIDES = {"shared": True, "not shared": False}
SHOTS = 3
"""Solved problems of six steps before a few-shot problem: about 500 tokens."""
WARM_UP, EXAMPLES = 10_000, 10_001
"""Seeds of problems that no round uses."""


def question(problem: WordProblem, task: str) -> str:
    if task == "plain":
        return problem.text
    solved = make_problems(SHOTS, EXAMPLES, steps=(6,))
    return "\n\n".join([*("\n\n".join([shot.text, *shot.solution]) for shot in solved), problem.text])


async def value(engine: Engine, problem: WordProblem, task: str, options: argparse.Namespace) -> list[Any]:
    """Rolls out from every prefix of a solution concurrently, as labelling does. (prompt tokens, completion) each."""
    asked = question(problem, task)
    calls: list[Any] = []
    for length in range(1, len(problem.solution)):
        ids = rollout_prompt(engine.tokenizer, asked, problem.solution[:length])
        for number in range(options.each):
            sampling = Sampling(options.max_tokens, temperature=1.0, seed=1000 * length + number)
            calls.append((len(ids), engine.generate(ids, sampling, chain=f"{problem.id} {length}")))
    done = await asyncio.gather(*(call for _, call in calls))
    return list(zip((tokens for tokens, _ in calls), done, strict=True))


async def one_round(engine: Engine, task: str, seed: int, count: int, options: argparse.Namespace) -> dict[str, Any]:
    problems = make_problems(count, seed, steps=(options.steps,))
    gate = asyncio.Semaphore(options.problems_at_once)

    async def work(problem: WordProblem) -> list[tuple[int, Completion]]:
        async with gate:
            return await value(engine, problem, task, options)

    started = time.perf_counter()
    found = [pair for pairs in await asyncio.gather(*map(work, problems)) for pair in pairs]
    return {
        "seconds": time.perf_counter() - started,
        "rollouts": len(found),
        "prompt": sum(tokens for tokens, _ in found),
        "cached": sum(done.cached_tokens for _, done in found),
        "generated": sum(done.sampled_tokens for _, done in found),
        "texts": [done.text for _, done in found],
    }


async def measure(shared: bool, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Runs all rounds of all tasks on one engine, which is closed before the next one starts."""
    engine = await load_engine("vllm", "nano-policy", enable_prefix_caching=shared)
    try:
        rounds: dict[str, list[dict[str, Any]]] = {}
        for task in options.tasks:
            await one_round(engine, task, WARM_UP, 2, options)
            rounds[task] = [
                await one_round(engine, task, options.seed + number, options.problems, options)
                for number in range(options.rounds)
            ]
        return rounds
    finally:
        await engine.close()


def rates(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    a_second = [found["rollouts"] / found["seconds"] for found in rounds]
    rollouts = sum(found["rollouts"] for found in rounds)
    return {
        "rollouts_per_s": round(statistics.median(a_second), 2),
        "low": round(min(a_second), 2),
        "high": round(max(a_second), 2),
        "rollouts": rollouts,
        "prompt_tokens": round(sum(found["prompt"] for found in rounds) / rollouts, 1),
        "generated_tokens": round(sum(found["generated"] for found in rounds) / rollouts, 1),
        "cached": round(sum(found["cached"] for found in rounds) / sum(found["prompt"] for found in rounds), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["plain", "few-shot"], choices=["plain", "few-shot"])
    parser.add_argument("--rounds", type=int, default=5, help="rounds per task; the median is reported")
    parser.add_argument("--problems", type=int, default=16, help="problems per round")
    parser.add_argument("--problems-at-once", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, choices=range(2, 7), help="steps per problem")
    parser.add_argument("--each", type=int, default=32, help="rollouts per prefix")
    parser.add_argument("--max-tokens", type=int, default=128, help="token limit of a rollout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/rollouts.json")
    options = parser.parse_args()
    made = {side: asyncio.run(measure(shared, options)) for side, shared in SIDES.items()}
    figures: dict[str, Any] = {}
    print(f"{'task':>10} {'prefixes':>12} {'rollouts/s':>11} {'low':>8} {'high':>8} {'prompt':>8} {'cached':>8}")
    for task in options.tasks:
        figures[task] = {side: rates(made[side][task]) for side in SIDES}
        for side, row in figures[task].items():
            print(
                f"{task:>10} {side:>12} {row['rollouts_per_s']:>11} {row['low']:>8} {row['high']:>8} "
                f"{row['prompt_tokens']:>8} {row['cached']:>8.1%}"
            )
        pairs = zip(made["shared"][task], made["not shared"][task], strict=True)
        same = [a == b for one, other in pairs for a, b in zip(one["texts"], other["texts"], strict=True)]
        ratio = figures[task]["shared"]["rollouts_per_s"] / figures[task]["not shared"]["rollouts_per_s"]
        figures[task] |= {"ratio": round(ratio, 3), "same_text": round(sum(same) / len(same), 4)}
        print(f"{'':>10} {ratio:.2f} times as many; {sum(same):,} of {len(same):,} texts are the same on both sides")
    line = json.dumps(figures)
    if options.save:
        path = Path(__file__).parent / "results" / "rollouts.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
