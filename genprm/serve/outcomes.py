"""Computes rewards from judgements: compares answers and checks the format."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from genprm.data.inputs import InputRow
from genprm.data.steps import join_steps
from genprm.grading.answers import AnswerChecker, AnswerError
from genprm.grading.grades import Grade, Grader
from genprm.grading.solutions import AnswerGrader
from genprm.guards import find_violation
from genprm.rewards import gated_reward, process_score
from genprm.types import Judgement

_PATIENCE_S = 20.0
"""Time limit of comparing one answer, in seconds, including the start of math-verify."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The correctness and format of a solution, independent of its judgement."""

    correct: bool | None
    gated: bool
    """Whether the reward is gated by an answer."""
    violation: str | None
    reason: str | None = None
    """Why it is unknown whether the answer is right."""

    @property
    def settled(self) -> bool:
        """Whether the reward does not depend on the judgement, so that none is needed."""
        return self.violation is not None or self.correct is False

    def reward(self, judgement: Judgement | None, weight: float) -> float | None:
        """The reward; None if something is missing."""
        if self.settled:
            return 0.0
        if judgement is None:
            return None
        scores = judgement.scores
        if judgement.solution is not None and any(score is None for score in scores):
            scores = [judgement.solution.score]
        return gated_reward(scores, correct=self.correct, weight=weight) if self.gated else process_score(scores)


class Outcomes:
    """Compares answers in killable processes, until `close`.

    Args:
        grader: compares answers; by default math-verify does.
        guards: look for violations of `genprm.guards`.
    """

    def __init__(self, grader: Grader | None = None, *, guards: bool = True) -> None:
        self._checker: AnswerChecker | None = None
        self._grader = grader
        self._guards = guards

    async def of(self, row: InputRow, correct: bool | None, limit_s: float = _PATIENCE_S) -> Outcome:
        """Computes the outcome of a solution.

        Args:
            row: the solution, with the reference answer if there is one.
            correct: the client's value, if known.
            limit_s: time limit of the comparison.
        """
        violation = find_violation(row.problem, row.steps, answer=row.answer) if self._guards else None
        detail = None if violation is None else f"{violation.rule}: {violation.detail}"
        if correct is not None or row.answer is None:
            return Outcome(correct, correct is not None, detail)
        try:
            async with asyncio.timeout(min(limit_s, _PATIENCE_S)):
                grade = await self._grade(row.answer, join_steps(row.steps))
        except (AnswerError, TimeoutError) as error:
            return Outcome(None, True, detail, f"the answer could not be compared: {error or 'it took too long'}")
        reason = None if grade.correct is not None else "the answer could not be compared"
        return Outcome(grade.correct, True, detail, reason)

    async def _grade(self, answer: str, solution: str) -> Grade:
        if self._grader is None:
            self._checker = AnswerChecker()
            self._grader = AnswerGrader(self._checker)
        return (await self._grader.grade(answer, [solution]))[0]

    async def close(self) -> None:
        """Ends the processes."""
        if self._checker is not None:
            await self._checker.close()
