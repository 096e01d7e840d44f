"""A judge with known answers, for tests of the code around judges."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from genprm.data.inputs import InputRow
from genprm.engines.errors import EngineError
from genprm.types import Chain, ChainFinish, CodeRun, Judgement, Tokens, combine_chains, logit


@dataclass
class ArithmeticJudge:
    """Says No to a step that reads `a = b` with a different from b. A step that reads `raise` fails."""

    name: str = "arithmetic"
    capacity: int = 4
    delay_s: float = 0.0
    in_flight: int = 0
    most_in_flight: int = 0
    judged: list[str] = field(default_factory=list)
    threshold: float = 0.5
    error: Exception = field(default_factory=lambda: EngineError("the server is gone"))

    @property
    def facts(self) -> dict[str, JsonValue]:
        return {"model": self.name, "capacity": self.capacity}

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay_s)
            if "raise" in steps:
                raise self.error
        finally:
            self.in_flight -= 1
        self.judged.append(problem)
        judged = tuple(combine_chains([self._chain(step)], self.threshold) for step in steps)
        return Judgement(judged, self.threshold, Tokens(10, 5, 2))

    def _chain(self, step: str) -> Chain:
        left, _, right = step.partition(" = ")
        if not right:
            return Chain(step, (), None, None, None, ChainFinish.NO_VERDICT)
        score = 0.9 if left == right else 0.0
        run = CodeRun("print(1)", "ok", "1\n", None, 0.001)
        return Chain(f"I compare {step}", (run,), score, logit(score), None, ChainFinish.VERDICT)

    async def close(self) -> None:
        pass


def row(number: int, *steps: str, label: int | None = None) -> InputRow:
    return InputRow(
        f"{number:04x}", "in.jsonl", number, f"problem {number}", steps or ("1 = 1",), str(number), None, label
    )
