"""How much of a resumed chain is recomputed, and the cost of a step late in a long solution.

`python benchmarks/prefix.py --save` judges solutions with the built-in model and real execution on vLLM. A chain is
resumed after every snippet and every step; what could come from the prefix cache then is all that its earlier requests
sent and received. Solutions of 5, 20 and 60 steps, one at a time, show what a step costs as its history grows, on vLLM
and on the transformers engine, which recomputes the history for every request. Then many solutions at once share a
cache that holds only a part of them: with genprm's admission, and all in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.engines import BUILT_IN, Completion, Engine, Sampling, load_engine
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.profiles import GenPRMModel, read_profile
from genprm.sandbox import open_sandbox


class Watched:
    """An engine, and how much of each chain's later prompts it had seen before."""

    def __init__(self, engine: Engine, cache_tokens: int | None) -> None:
        self._engine = engine
        self.cache_tokens = cache_tokens
        self._seen: dict[str, list[int]] = {}
        self.could = self.hit = self.prompt = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        completion = await self._engine.generate(prompt_ids, sampling, chain=chain)
        ids = list(prompt_ids)
        if chain is not None:
            if before := self._seen.get(chain):
                self.could += next(
                    (at for at, (old, new) in enumerate(zip(before, ids, strict=False)) if old != new),
                    min(len(before), len(ids)),
                )
                self.hit += completion.cached_tokens
                self.prompt += len(ids)
            self._seen[chain] = [*ids, *completion.token_ids]
        return completion


def solution(steps: int, number: int) -> tuple[str, list[str]]:
    """Correct arithmetic with several steps."""
    total, texts = 20 + number, list[str]()
    for step in range(steps):
        add = 3 + (7 * step + number) % 9
        texts.append(f"Then there are {total}+{add} = {total + add} apples.")
        total += add
    return f"There are {20 + number} apples. How many are there in the end?", texts


async def measure(engine_name: str, lengths: list[int], each: int, chains: int, seed: int) -> dict[str, Any]:
    model = read_profile(str(BUILT_IN["nano"]))
    assert isinstance(model, GenPRMModel)
    engine = await load_engine(engine_name, str(BUILT_IN["nano"]))  # type: ignore[arg-type]
    figures: dict[str, Any] = {"ms_a_step": {}}
    try:
        async with open_sandbox("auto") as box:
            watched = Watched(engine, engine.cache_tokens)
            prm = GenPRM(watched, box, profile=model.profile, sampling=model.sampling)  # type: ignore[arg-type]
            await prm.judge(*solution(5, seed))
            for length in lengths:
                started = time.perf_counter()
                for number in range(each):
                    await prm.judge(*solution(length, seed + 100 * length + number))
                seconds = time.perf_counter() - started
                figures["ms_a_step"][str(length)] = round(1000 * seconds / (each * length), 1)
            if engine_name == "vllm":
                busy = Watched(engine, engine.cache_tokens)
                prm = GenPRM(busy, box, profile=model.profile, sampling=model.sampling)  # type: ignore[arg-type]
                await asyncio.gather(*(prm.judge(*solution(8, seed + 9000 + number)) for number in range(chains)))
                figures["hit_rate"] = {"alone": rate(watched), str(chains): rate(busy)}
    finally:
        await engine.close()
    return figures


async def crowded(solutions: int, steps: int, cache_tokens: int, seed: int) -> dict[str, Any]:
    """Many solutions at once and a small cache, with admission and without."""
    model = read_profile(str(BUILT_IN["nano"]))
    assert isinstance(model, GenPRMModel)
    layers, width, each = 5, 256, 4  # the built-in model's; keys and values are 2 x layers x width numbers a token
    engine = await load_engine(
        "vllm",
        str(BUILT_IN["nano"]),
        max_model_len=2048,
        max_num_seqs=solutions,
        kv_cache_memory_bytes=cache_tokens * 2 * layers * width * each,
    )
    figures: dict[str, Any] = {"solutions": solutions, "steps": steps, "cache_tokens": engine.cache_tokens}
    try:
        async with open_sandbox("auto") as box:
            await GenPRM(engine, box, profile=model.profile, sampling=model.sampling).judge(*solution(4, seed))
            for number, (name, known) in enumerate((("admission", engine.cache_tokens), ("all_at_once", None))):
                watched = Watched(engine, known)
                prm = GenPRM(watched, box, profile=model.profile, sampling=model.sampling)  # type: ignore[arg-type]
                rows = [solution(steps, seed + 20_000 + 1000 * number + k) for k in range(solutions)]
                started = time.perf_counter()
                await asyncio.gather(*(prm.judge(*row) for row in rows))
                seconds = time.perf_counter() - started
                figures[name] = {"solutions_per_s": round(solutions / seconds, 2), "hit_rate": rate(watched)}
    finally:
        await engine.close()
    return figures


def rate(watched: Watched) -> float:
    return round(watched.hit / watched.could, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engines", nargs="*", default=["vllm", "transformers"], choices=["vllm", "transformers"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[5, 20, 60], help="steps of a solution")
    parser.add_argument("--each", type=int, default=3, help="solutions of each length")
    parser.add_argument("--chains", type=int, default=32, help="solutions at once for the hit rate under load")
    parser.add_argument("--crowd", type=int, default=40, help="solutions that meet a small cache; 0: none")
    parser.add_argument("--cache-tokens", type=int, default=16_384, help="tokens that it holds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/prefix.json")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    print(f"{'engine':>14} " + " ".join(f"{f'{length} steps':>10}" for length in options.lengths) + "   ms a step")
    for name in options.engines:
        found = asyncio.run(measure(name, options.lengths, options.each, options.chains, options.seed))
        figures[name] = found
        print(f"{name:>14} " + " ".join(f"{found['ms_a_step'][str(length)]:>10}" for length in options.lengths))
        for chains, share in found.get("hit_rate", {}).items():
            print(f"{'':>14} {share:.1%} of the tokens that could hit did, {chains} in flight")
    if options.crowd:
        found = asyncio.run(crowded(options.crowd, 12, options.cache_tokens, options.seed))
        figures["crowd"] = found
        print(f"{options.crowd} solutions of {found['steps']} steps at once, {found['cache_tokens']} tokens of cache:")
        for name in ("admission", "all_at_once"):
            print(
                f"{name:>14} {found[name]['solutions_per_s']:>7}/s, {found[name]['hit_rate']:.1%} of what could hit did"
            )
        ratio = found["admission"]["solutions_per_s"] / found["all_at_once"]["solutions_per_s"]
        print(f"{ratio:.1f} times as many a second with admission")
    line = json.dumps(figures)
    if options.save:
        path = Path(__file__).parent / "results" / "prefix.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
