"""Judges keep no more solutions in flight than their engine's cache holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

import pytest

from genprm.config import Mode
from genprm.engines.admission import Admission
from genprm.engines.base import Completion, Engine, Sampling
from genprm.prms.base import PRM
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.thinkprm.judge import ThinkPRMJudge
from genprm.search.scoring import _SOLUTION_TO_PROBLEM, Scorer, TokenCount
from tests.fakes import ScriptedEngine

PROBLEMS = ["What is 1+1?", "What is 2+2?", "What is 3+3?"]


class Patient(ScriptedEngine):
    """Is slow, so that other solutions run between two calls of one solution."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        await asyncio.sleep(0)
        return await super().generate(prompt_ids, sampling, chain=chain)

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        await asyncio.sleep(0)
        return await super().choice_logprobs(prompt_ids, choices, chain=chain)


def direct(engine: Engine) -> PRM:
    return GenPRM(engine, mode=Mode.DIRECT)


async def judged(prm: PRM, problem: str) -> None:
    judgement = await prm.judge(problem, ["A step.", "A step."])
    assert all(step.verdict is not None for step in judgement.steps)


async def searched(prm: PRM, problem: str) -> None:
    scorer = Scorer(prm, problem, how=None, seed=0, spent=TokenCount())
    async with scorer.room(2):
        found = [await scorer.score(steps) for steps in (["A step."], ["A step.", "Another."])]
    assert all(scored.reward is not None for scored in found)


async def turns(
    make: Callable[[Engine], PRM],
    reply: str,
    cache_tokens: int | None,
    work: Callable[[PRM, str], Awaitable[None]] = judged,
) -> int:
    """How often the engine switched between problems while all were in flight."""
    engine = Patient.of(*[reply] * 6)
    engine.cache_tokens = cache_tokens
    prm = make(engine)
    await asyncio.gather(*(work(prm, problem) for problem in PROBLEMS))
    order = [next(problem for problem in PROBLEMS if problem in call.prompt) for call in engine.calls]
    return sum(1 for _ in groupby(order))


COT = "Step 1 is \\boxed{correct}\nStep 2 is \\boxed{correct}\n</think>\nIs the solution correct?"


@pytest.mark.parametrize(("make", "reply"), [(direct, "{Yes}$\n</output>\n"), (ThinkPRMJudge, COT)])
async def test_solutions_that_fit_the_cache_go_side_by_side_and_others_wait(
    make: Callable[[Engine], PRM], reply: str
) -> None:
    assert await turns(make, reply, 1 << 20) > len(PROBLEMS)
    assert await turns(make, reply, None) > len(PROBLEMS)
    assert await turns(make, reply, 1) == len(PROBLEMS)


async def test_a_search_holds_room_for_all_its_solutions() -> None:
    reply = "{Yes}$\n</output>\n"
    assert await turns(direct, reply, 1 << 20, searched) > len(PROBLEMS)
    assert await turns(direct, reply, 1, searched) == len(PROBLEMS)


async def test_a_search_holds_room_for_all_votes() -> None:
    prm = GenPRM(ScriptedEngine.of(), mode=Mode.DIRECT, votes=8)
    prm.admission = Admission(1 << 20, 1 << 20)
    scorer = Scorer(prm, "What is 1+1?", how=None, seed=0, spent=TokenCount())
    async with scorer.room(4):
        characters = _SOLUTION_TO_PROBLEM * len("What is 1+1?")
        assert prm.admission._held == 8 * Admission(1 << 20, 1 << 20).estimate(characters, 4)
