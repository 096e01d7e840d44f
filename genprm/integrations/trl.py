"""TRL: `GRPOTrainer(reward_funcs=process_reward(), ...)`. Read in trl 1.16. Credit for each step: `trl_steps`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from genprm.chat_text import problem_of, solution_of
from genprm.client import Client, Score, item

EMPTY = Score(
    scores=[],
    spans=[],
    first_error=None,
    solution=None,
    correct=False,
    violation="empty: there are no steps",
    reward=0.0,
    complete=True,
    reason=None,
)
"""Of a completion that says nothing: there is nothing to judge, and it earns nothing."""


def process_scores(
    client: Client | None = None, *, answer: str = "answer", problem: str | None = None
) -> Callable[..., Awaitable[list[Score | None]]]:
    """Judges completions: what `process_reward` and `genprm.integrations.trl_steps.StepGRPOTrainer` are made of.

    Args:
        client: asks the service; by default one with default settings.
        answer: the column with the reference answer.
        problem: the column with the problem; by default it is read off the prompt.

    Returns:
        An async function that TRL can call as a reward function, with one score a completion; None where there could be
        none. How many is logged as `genprm/missing`, and how many break a guard as `genprm/violations`.
    """
    client = client or Client()

    async def genprm_process_scores(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[Score | None]:
        problems = columns[problem] if problem else [problem_of(prompt) for prompt in prompts]
        answers = columns.get(answer) or [None] * len(prompts)
        solutions = [solution_of(completion) for completion in completions]
        judged = [index for index, solution in enumerate(solutions) if solution]
        items = [item(problems[index], solutions[index], answer=_text(answers[index])) for index in judged]
        scores: list[Score | None] = [EMPTY] * len(completions)
        for index, score in zip(judged, await client.ascore_many(items), strict=True):
            scores[index] = score
        if log := columns.get("log_metric"):
            log("genprm/missing", sum(one is None or one.reward is None for one in scores) / max(1, len(scores)))
            log("genprm/violations", sum(one is not None and one.violation is not None for one in scores))
        return scores

    return genprm_process_scores


def process_reward(
    client: Client | None = None, *, answer: str = "answer", problem: str | None = None
) -> Callable[..., Awaitable[list[float | None]]]:
    """A reward function for `reward_funcs`: the gated process reward of each completion.

    Args:
        client: as for `process_scores`.
        answer: the column with the reference answer. Without such a column the reward is not gated: the lowest step
            score, which a policy can farm.
        problem: as for `process_scores`.

    Returns:
        An async function. A completion whose reward could not be had gets None. TRL leaves it out if it has no other
        reward either; beside another reward function, None counts as 0.
    """
    judge = process_scores(client, answer=answer, problem=problem)

    async def genprm_process_reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        scores = await judge(prompts=prompts, completions=completions, **columns)
        return [None if score is None else score.reward for score in scores]

    return genprm_process_reward


def _text(answer: object) -> str | None:
    return None if answer is None else str(answer)
