"""verifiers and prime-rl: a judge plugin. Written for verifiers 0.4.0.

Plugin ids are module names without dots, so a file on `PYTHONPATH` has to import it: `examples/rl/genprm_process.py`,
whose id is `genprm_process`.
"""
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verifiers.v1 import Judge, JudgeConfig  # pyright: ignore[reportMissingImports]

from genprm.chat_text import solution_of
from genprm.client import Client, ClientError

__all__ = ["ProcessJudge", "ProcessJudgeConfig"]


class ProcessJudgeConfig(JudgeConfig):
    """Where the service is, and which fields of a task it needs."""

    id: str = "genprm_process"
    name: str = "process"
    url: str | None = None
    """By default from the environment."""
    timeout_s: float = 120.0
    question_field: str = ""
    """Task field with the problem; empty for the task's prompt."""
    answer_field: str = "answer"
    """Task field with the reference answer; empty for none: then the reward is not gated."""


class ProcessJudge(Judge[float, ProcessJudgeConfig]):
    """Rewards the root agent's last reply."""

    async def score(self, task: Any, trace: Any) -> float | Mapping[str, float]:
        """The gated process reward.

        Raises:
            ClientError: there is no reward. verifiers then counts a failed judge, not a wrong answer.
        """
        config = self.config
        solution = solution_of(trace.last_reply)
        if not solution:
            return 0.0
        problem = getattr(task, config.question_field) if config.question_field else task.prompt_text
        answer = getattr(task, config.answer_field, None) if config.answer_field else None
        client = Client(config.url, timeout_s=config.timeout_s, raise_errors=True)
        try:
            given = None if answer is None else str(answer)
            score = await client.ascore(str(problem), solution, answer=given)
        finally:
            client.close()
        assert score is not None
        if score.reward is None:
            raise ClientError(f"no reward: {score.reason}")
        trace.info["genprm_scores"] = score.scores
        return score.reward
