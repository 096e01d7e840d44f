"""OpenRLHF: `--reward.remote_url PATH_OF_THIS_FILE`. Written for openrlhf 0.11.2.

The service also answers `--reward.remote_url http://HOST:8311/get_reward` directly; this file adds retries and a
deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from genprm.chat_text import problem_of, solution_of
from genprm.client import Client, item


@cache
def _client() -> Client:
    return Client(timeout_s=170.0)


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """Gated process rewards.

    Args:
        queries: prompt and response, with the tokens of the chat template.
        prompts: the rendered prompts.
        labels: the reference answers.

    Returns:
        `rewards` for training, `scores` in [0, 1] for dynamic filtering, and `extra_logs`: `correct` (-1 where it is
        unknown), `violation`, and `missing`. A missing reward is 0: OpenRLHF makes tensors of the values.
    """
    problems = [problem_of(prompt) for prompt in prompts]
    solutions = [
        solution_of(query[len(prompt) :] if query.startswith(prompt) else query)
        for query, prompt in zip(queries, prompts, strict=True)
    ]
    judged = [index for index, solution in enumerate(solutions) if solution]
    found = _client().score_many(
        [item(problems[index], solutions[index], answer=_text(labels[index])) for index in judged]
    )
    rewards, correct = [0.0] * len(queries), [-1.0] * len(queries)
    violation, missing = [1.0] * len(queries), [0.0] * len(queries)  # an empty solution is a violation
    for index, score in zip(judged, found, strict=True):
        if score is not None:
            rewards[index] = score.reward or 0.0
            correct[index] = -1.0 if score.correct is None else float(score.correct)
        violation[index] = float(score is not None and score.violation is not None)
        missing[index] = float(score is None or score.reward is None)
    logs = {"correct": correct, "violation": violation, "missing": missing}
    return {"rewards": rewards, "scores": rewards, "extra_logs": logs}


def _text(label: object) -> str | None:
    return None if label in (None, "") else str(label)
