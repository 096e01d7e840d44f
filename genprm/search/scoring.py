"""Judging the solutions of one problem, each once, and with what is known of their beginnings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from genprm.engines.errors import ContextOverflowError
from genprm.prms.base import PRM, PartialJudgement, PRMError, StepwisePRM
from genprm.search.voting import Aggregate, clipped, reward
from genprm.types import Judgement, Tokens, logit

Steps = tuple[str, ...]

_SOLUTION_TO_PROBLEM = 8
"""How many times as long as its problem a solution is taken to be, before any has been judged."""


@dataclass(slots=True)
class Meter:
    """Tokens spent on one problem."""

    policy: Tokens = field(default_factory=Tokens)
    prm: Tokens = field(default_factory=Tokens)
    judged_steps: int = 0
    """Steps that the PRM was asked about."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a PRM says about a solution, or the beginning of one."""

    reward: float | None
    """Log-odds that it is right; None where there is none."""
    judgement: Judgement | None
    reason: str | None = None
    """Why there is no judgement."""


UNSCORED = Scored(None, None, "there is no PRM")


def reward_of(judgement: Judgement, how: Aggregate | None) -> float | None:
    """The reward that a judgement comes to.

    Args:
        judgement: of a solution.
        how: None takes the judgement of the whole where there is one, else the lowest score of a step.

    Raises:
        PRMError: the judgement of the whole is asked for, and the judge gives none.
    """
    whole = judgement.solution
    if how is Aggregate.SOLUTION or (how is None and whole is not None):
        if whole is None:
            raise PRMError("this judge gives no judgement of the whole: choose another aggregate than solution")
        if whole.score is None:
            return None
        return clipped(logit(whole.score) if whole.log_odds is None else whole.log_odds)
    return reward(judgement.scores, how or Aggregate.MIN, [step.log_odds for step in judgement.steps])


class Scorer:
    """Scores the solutions of one problem.

    Equal ones are judged once. A judge that can go on from the judgement of a beginning judges each step once, in
    whatever number of continuations it stands; others judge every beginning anew.

    Args:
        prm: the judge.
        problem: the question.
        how: see `reward_of`.
        seed: given to the judge, the same for all solutions.
        meter: counts what is spent.
    """

    def __init__(self, prm: PRM, problem: str, *, how: Aggregate | None, seed: int, meter: Meter) -> None:
        self._prm = prm
        self._problem = problem
        self._how = how
        self._seed = seed
        self._meter = meter
        self._held = 0
        self._partial: dict[Steps, asyncio.Task[PartialJudgement]] = {}
        self._whole: dict[Steps, asyncio.Task[Judgement]] = {}

    @asynccontextmanager
    async def room(self, solutions: int) -> AsyncGenerator[None]:
        """Holds room for the judgements of so many solutions in the judge's cache, and waits for it before."""
        if not isinstance(self._prm, StepwisePRM):
            yield  # it gets room for each judgement by itself
            return
        async with self._prm.admission.place(_SOLUTION_TO_PROBLEM * len(self._problem), solutions) as place:
            yield
            place.tokens = self._held

    async def score(self, steps: Sequence[str]) -> Scored:
        """Scores a solution or its beginning.

        One that does not fit the judge's context has no score, and says so.

        Raises:
            EngineError: the engine could not answer, after its own retries.
            SandboxError: the sandbox broke.
        """
        if not steps:
            return Scored(None, None, "there are no steps")
        try:
            if isinstance(self._prm, StepwisePRM):
                judgement = (await self._extended(tuple(steps))).judgement
            else:
                judgement = await self._judged(tuple(steps))
        except ContextOverflowError as error:
            return Scored(None, None, str(error))
        return Scored(reward_of(judgement, self._how), judgement)

    async def _extended(self, steps: Steps) -> PartialJudgement:
        task = self._partial.get(steps)
        if task is None:
            task = self._partial[steps] = asyncio.create_task(self._extend(steps))
        return await asyncio.shield(task)

    async def _extend(self, steps: Steps) -> PartialJudgement:
        assert isinstance(self._prm, StepwisePRM)
        if not steps:
            return self._prm.begin(self._problem, seed=self._seed)
        before = await self._extended(steps[:-1])
        after = await before.extended(steps[-1])
        self._held += after.length - before.length
        spent = after.judgement.steps[-1].chains
        self._count(sum((chain.tokens for chain in spent), Tokens()), 1)
        return after

    async def _judged(self, steps: Steps) -> Judgement:
        task = self._whole.get(steps)
        if task is None:
            task = self._whole[steps] = asyncio.create_task(self._judge(steps))
        return await asyncio.shield(task)

    async def _judge(self, steps: Steps) -> Judgement:
        judgement = await self._prm.judge(self._problem, steps, seed=self._seed)
        self._count(judgement.tokens, len(steps))
        return judgement

    def _count(self, tokens: Tokens, steps: int) -> None:
        self._meter.prm += tokens
        self._meter.judged_steps += steps

    async def close(self) -> None:
        """Stops what is still being judged, when nobody waits for it any more."""
        tasks: list[asyncio.Task[object]] = [*self._partial.values(), *self._whole.values()]  # pyright: ignore[reportAssignmentType]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
