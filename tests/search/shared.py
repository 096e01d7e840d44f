"""A judge that knows the truth, for exact tests of searches."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from genprm.grading.answers import boxed_answer
from genprm.grading.grades import Grade
from genprm.types import Chain, ChainFinish, Judgement, Tokens, combine_chains, logit


@dataclass
class TruthJudge:
    """Scores each step by `score`."""

    score: Callable[[str], float | None]
    name: str = "truth"
    capacity: int = 8
    judged: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, JsonValue]:
        return {"model": self.name, "capacity": self.capacity}

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        self.judged.append(tuple(steps))
        await asyncio.sleep(0)
        return Judgement(tuple(combine_chains([self.chain(step)]) for step in steps), tokens=Tokens(0, len(steps)))

    def chain(self, step: str) -> Chain:
        score = self.score(step)
        if score is None:
            return Chain(step, (), None, None, None, ChainFinish.NO_VERDICT)
        return Chain(f"about {step}", (), score, logit(score), None, ChainFinish.VERDICT, Tokens(0, 1))

    async def close(self) -> None:
        pass


class TextGrader:
    """Answers are equal if their texts are equal."""

    async def grade(self, reference: str | None, solutions: Sequence[str]) -> list[Grade]:
        answers = [boxed_answer(solution) for solution in solutions]
        return [Grade(answer, None if reference is None else answer == reference) for answer in answers]

    async def group(self, answers: Sequence[str | None]) -> list[str | None]:
        return [answer or None for answer in answers]
