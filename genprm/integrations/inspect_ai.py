"""Inspect: `Task(scorer=[match(), process()])`. Written for inspect-ai 0.3.285."""
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false

from __future__ import annotations

from typing import Any

from inspect_ai.scorer import Score, Target, mean, scorer, stderr  # pyright: ignore[reportMissingImports]

from genprm.chat_text import solution_of
from genprm.client import Client


@scorer(metrics=[mean(), stderr()])
def process(url: str | None = None, timeout_s: float = 300.0, gated: bool = False) -> Any:
    """Scores a solution by its worst step.

    Args:
        url: the service; by default from the environment.
        timeout_s: time limit of one sample.
        gated: give 0 to a wrong answer, as the training reward does.

    Returns:
        A scorer. The value is the lowest step score in [0, 1]; `metadata` has all scores, the first wrong step, and
        whether the answer is right. A sample that could not be judged is not scored.
    """
    client = Client(url, timeout_s=timeout_s)

    async def score(state: Any, target: Target) -> Score | None:
        solution = solution_of(state.output.completion)
        if not solution:
            return Score(value=0.0, explanation="the answer is empty")
        found = await client.ascore(state.input_text, solution, answer=target.text or None)
        if found is None or not found.complete or any(one is None for one in found.scores):
            return None
        lowest = min(one for one in found.scores if one is not None)
        wrong = found.first_error
        about = {
            "scores": found.scores,
            "first_error": wrong,
            "correct": found.correct,
            "violation": found.violation,
            "reward": found.reward,
        }
        said = (
            None if wrong is None else "no step is judged wrong" if wrong < 0 else f"step {wrong + 1} is judged wrong"
        )
        return Score(value=(found.reward or 0.0) if gated else lowest, explanation=said, metadata=about)

    return score
