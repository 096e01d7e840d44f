"""Inspect: `Task(scorer=[match(), process()])`. Written for inspect-ai 0.3.285."""
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false

from __future__ import annotations

from typing import Any

from inspect_ai.scorer import Score, Target, mean, scorer, stderr  # pyright: ignore[reportMissingImports]

from genprm.chat_text import solution_of
from genprm.client import Client
from genprm.client import Score as StepScores


@scorer(metrics=[mean(), stderr()])
def process(url: str | None = None, timeout_s: float = 300.0, gated: bool = False) -> Any:
    """Scores a solution by its worst step.

    Args:
        url: the service; by default from the environment.
        timeout_s: time limit of one sample.
        gated: give 0 to a wrong answer, as the training reward does.

    Returns:
        A scorer. The value is the lowest step score in [0, 1]; `metadata` has all scores, the first wrong step, and
        whether the answer is right. A sample that could not be judged counts as unscored: the metrics leave it out, and
        `explanation` says why.
    """
    client = Client(url, timeout_s=timeout_s)

    async def score(state: Any, target: Target) -> Score:
        solution = solution_of(state.output.completion)
        if not solution:
            return Score(value=0.0, explanation="the answer is empty")
        found = await client.ascore(state.input_text, solution, answer=target.text or None)
        if found is None or not found.complete or any(one is None for one in found.scores):
            # Inspect would drop a None without counting it.
            why = client.stats.last_error if found is None else found.reason or "a step has no verdict"
            return Score.unscored(reason="judge_failed", explanation=why, metadata=_about(found))
        lowest = min(one for one in found.scores if one is not None)
        wrong = found.first_error
        said = (
            None if wrong is None else "no step is judged wrong" if wrong < 0 else f"step {wrong + 1} is judged wrong"
        )
        return Score(value=(found.reward or 0.0) if gated else lowest, explanation=said, metadata=_about(found))

    return score


def _about(found: StepScores | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "scores": found.scores,
        "first_error": found.first_error,
        "correct": found.correct,
        "violation": found.violation,
        "reward": found.reward,
    }
