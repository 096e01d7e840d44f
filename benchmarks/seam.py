"""What the seam after the opening costs: tokens of later prompts that a prefix cache holds, and equality of ids.

`python benchmarks/seam.py --model models/smollm2 --save` judges the same solutions with each way of tokenising the
opening and the analysis (`Profile.seam`), greedily and without code. A perfect prefix cache is simulated: of a prompt
it holds the longest beginning that an earlier prompt of the chain, with what was written after it, has in common. It
also counts how many prompts from the second stage on are the ids of their text tokenised as a whole, as the released
code sends it, and how many analyses begin with a space.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.config import Mode
from genprm.engines import Completion, Engine, Sampling, load_engine
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.genprm.protocol import Profile, SamplingDefaults
from genprm.prms.load import model_path
from genprm.prms.profiles import GenPRMModel, read_profile

PROBLEM = "There are {} apples, and {} more are bought each day. How many are there after {} days?"


class PerfectCache:
    """An engine, and what a cache that forgets nothing would hold of each chain's prompts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: dict[str, list[int]] = {}
        self.prompt = self.held = self.later = self.whole = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        done = await self._engine.generate(prompt_ids, sampling, chain=chain)
        ids, seen = list(prompt_ids), self._seen.get(chain or "", [])
        self.prompt += len(ids)
        self.held += next(
            (at for at, (a, b) in enumerate(zip(seen, ids, strict=False)) if a != b), min(len(seen), len(ids))
        )
        tokenizer = self._engine.tokenizer
        if seen:
            self.later += 1
            self.whole += tokenizer.encode(tokenizer.decode(ids), special=True) == ids
        self._seen[chain or ""] = [*ids, *done.token_ids]
        return done


def solution(number: int, steps: int) -> tuple[str, list[str]]:
    """Right and wrong arithmetic of so many steps."""
    apples, more = 20 + number, 3 + number % 5
    texts: list[str] = []
    for day in range(1, steps + 1):
        wrong = number % 3 == 0 and day == steps
        texts.append(f"After day {day} there are {apples} + {more} = {apples + more + wrong} apples.")
        apples += more
    return PROBLEM.format(20 + number, more, steps), texts


async def measure(engine: Engine, profile: Profile, solutions: int, steps: int) -> dict[str, float]:
    cache = PerfectCache(engine)
    prm = GenPRM(cache, mode=Mode.ANALYZE, profile=profile, sampling=SamplingDefaults(0.0))  # type: ignore[arg-type]
    rows = [solution(number, steps) for number in range(solutions)]
    judged = await asyncio.gather(*(prm.judge(problem, texts) for problem, texts in rows))
    chains = [step.chains[0] for judgement in judged for step in judgement.steps]
    odds = [chain.log_odds for chain in chains if chain.log_odds is not None]
    after = [chain.text.partition("step by step:")[2] for chain in chains]
    return {
        "prompt_tokens": cache.prompt,
        "held": round(cache.held / cache.prompt, 4),
        "ids_of_the_whole_text": round(cache.whole / cache.later, 4),
        "begins_with_a_space": round(sum(text.startswith(" ") for text in after) / len(after), 4),
        "verdicts": len(odds),
        "mean_log_odds": round(sum(odds) / len(odds), 4) if odds else 0.0,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=model_path("nano"), help="folder or id of a chat model")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--solutions", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--analysis-tokens", type=int, default=64)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/seam.json")
    given = parser.parse_args()
    known = read_profile(given.model, family="genprm")
    assert isinstance(known, GenPRMModel)
    profile = replace(known.profile, analysis_tokens=given.analysis_tokens)
    engine = await load_engine(given.engine, given.model)  # type: ignore[arg-type]
    try:
        figures = {
            seam: await measure(engine, replace(profile, seam=seam), given.solutions, given.steps)  # type: ignore[arg-type]
            for seam in ("joined", "open", "split")
        }
    finally:
        await engine.close()
    names = list(figures["joined"])
    print(f"{'seam':8}" + "".join(f"{name:>24}" for name in names))
    for seam, values in figures.items():
        print(f"{seam:8}" + "".join(f"{values[name]:>24}" for name in names))
    result = {"model": Path(given.model).name, **figures}
    if given.save:
        folder = Path(__file__).parent / "results"
        (folder / "seam.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


asyncio.run(main())
