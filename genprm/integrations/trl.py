"""TRL: `GRPOTrainer(reward_funcs=process_reward(), ...)`. Written for trl 1.16."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from genprm.chat_text import problem_of, solution_of
from genprm.client import Client, item


def process_reward(
    client: Client | None = None, *, answer: str = "answer", problem: str | None = None
) -> Callable[..., Awaitable[list[float | None]]]:
    """A reward function for `reward_funcs`: the gated process reward of each completion.

    Args:
        client: the service's client; by default one with default settings.
        answer: the column with the reference answer. Without it the reward is not gated: it is the lowest step score,
            which is open to reward hacking.
        problem: the column with the problem; by default it is taken from the prompt.

    Returns:
        An async function. A completion without a reward gets None, which TRL ignores; their number is logged as
        `genprm/missing`, and the share that violates a guard as `genprm/violations`.
    """
    client = client or Client()

    async def genprm_process_reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        problems = columns[problem] if problem else [problem_of(prompt) for prompt in prompts]
        answers = columns.get(answer) or [None] * len(prompts)
        solutions = [solution_of(completion) for completion in completions]
        # An empty completion cannot be judged and earns nothing.
        judged = [index for index, solution in enumerate(solutions) if solution]
        items = [item(problems[index], solutions[index], answer=_text(answers[index])) for index in judged]
        rewards: list[float | None] = [0.0] * len(completions)
        found = await client.ascore_many(items)
        for index, score in zip(judged, found, strict=True):
            rewards[index] = None if score is None else score.reward
        if log := columns.get("log_metric"):
            log("genprm/missing", sum(reward is None for reward in rewards) / max(1, len(rewards)))
            log("genprm/violations", sum(one is not None and one.violation is not None for one in found))
        return rewards

    return genprm_process_reward


def _text(answer: object) -> str | None:
    return None if answer is None else str(answer)
