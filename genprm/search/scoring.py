"""Scores the solutions of one problem, each once, reusing the judgement of shared prefixes."""

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
"""Assumed length of a solution relative to its problem, before any has been judged."""


@dataclass(slots=True)
class TokenCount:
    """Tokens spent on one problem."""

    policy: Tokens = field(default_factory=Tokens)
    prm: Tokens = field(default_factory=Tokens)
    judged_steps: int = 0
    """Steps judged by the PRM."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Score of a solution or of a prefix of one."""

    reward: float | None
    """Log-odds that it is right; None without a score."""
    judgement: Judgement | None
    reason: str | None = None
    """Why there is no reward; None when there is one."""


UNSCORED = Scored(None, None, "no PRM is configured")


def reward_of(judgement: Judgement, how: Aggregate | None) -> float | None:
    """The reward of a judged solution.

    Args:
        judgement: the judgement of a solution.
        how: None takes the score of the whole solution from judges that give one, else the minimum over the steps.

    Raises:
        PRMError: `how` is `SOLUTION` and the judge does not score whole solutions.
    """
    whole = judgement.solution
    if how is Aggregate.SOLUTION or (how is None and whole is not None):
        if whole is None:
            raise PRMError("this judge does not score whole solutions: choose another aggregate than solution")
        if whole.score is None:
            return None
        return clipped(logit(whole.score) if whole.log_odds is None else whole.log_odds)
    return reward(judgement.scores, how or Aggregate.MIN, [step.log_odds for step in judgement.steps])


def unscored_reason(judgement: Judgement, how: Aggregate | None) -> str:
    """Why a judged solution has no reward."""
    whole = judgement.solution
    if whole is not None and how in (None, Aggregate.SOLUTION):
        return f"the solution has no score: {whole.reason or 'the judge gave none'}"
    missing = [number for number, step in enumerate(judgement.steps, start=1) if step.score is None]
    if not missing:
        return "the judge returned no steps"
    first = judgement.steps[missing[0] - 1].reason or "the judge gave none"
    others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return f"step {missing[0]} has no score: {first}{others}"


class Scorer:
    """Scores the solutions of one problem.

    Equal solutions are judged once. A stepwise judge judges each step once, however many solutions share it; other
    judges judge every prefix from its start.

    Args:
        prm: the judge.
        problem: the question.
        how: see `reward_of`.
        seed: passed to the judge, the same for all solutions.
        spent: counts tokens.
    """

    def __init__(self, prm: PRM, problem: str, *, how: Aggregate | None, seed: int, spent: TokenCount) -> None:
        self._prm = prm
        self._problem = problem
        self._how = how
        self._seed = seed
        self._spent = spent
        self._held = 0
        self._partial: dict[Steps, asyncio.Task[PartialJudgement]] = {}
        self._whole: dict[Steps, asyncio.Task[Judgement]] = {}

    @asynccontextmanager
    async def room(self, solutions: int) -> AsyncGenerator[None]:
        """Reserves room in the judge's cache for the judgements of this many solutions."""
        if not isinstance(self._prm, StepwisePRM):
            yield  # other judges reserve room for each judgement themselves
            return
        async with self._prm.admission.place(
            _SOLUTION_TO_PROBLEM * len(self._problem), solutions * self._prm.votes
        ) as place:
            yield
            place.tokens = self._held

    async def score(self, steps: Sequence[str]) -> Scored:
        """Scores a solution or a prefix of one.

        A solution that does not fit the judge's context has no score; `reason` says so.

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
        found = reward_of(judgement, self._how)
        return Scored(found, judgement, None if found is not None else unscored_reason(judgement, self._how))

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
        self._spent.prm += tokens
        self._spent.judged_steps += steps

    async def close(self) -> None:
        """Cancels judgements that are still running."""
        tasks: list[asyncio.Task[object]] = [*self._partial.values(), *self._whole.values()]  # pyright: ignore[reportAssignmentType]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
