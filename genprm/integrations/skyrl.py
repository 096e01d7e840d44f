"""SkyRL 0.3.0: step rewards at token positions, `rewards: list[list[float]]` of a generator's output.

Your own generator calls `token_rewards` when it builds its output; `ProcessEnv.step` is for SkyRL's generator, which
takes one number per turn.
"""
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

from functools import cache
from typing import Any

from genprm.chat_text import problem_of, solution_of
from genprm.client import Client, Score
from genprm.rewards import min_form
from genprm.step_tokens import Span, at_ends, token_ends, token_steps

try:  # SkyRL's gym refuses an environment of any other class
    from skyrl_gym.envs.base_text_env import BaseTextEnv as _Gym  # pyright: ignore[reportMissingImports]
except ImportError:  # the step rewards need only a tokenizer
    _Gym = object
_Environment: Any = _Gym


@cache
def _client() -> Client:
    return Client()


async def token_rewards(
    tokenizer: Any,
    problem: str,
    response_ids: list[int],
    *,
    answer: str | None = None,
    client: Client | None = None,
) -> list[float]:
    """The reward of a response, spread over its steps, each on the step's last token.

    The sum is the gated reward: the outcome's part is on the last token, and the steps' part is distributed by PURE's
    minimum form, so that the worst step decides.

    Args:
        tokenizer: the policy's tokenizer.
        problem: the question, or the rendered prompt.
        response_ids: the policy's response.
        answer: the reference answer.
        client: the service's client.

    Returns:
        One number per token; all 0 if there is no reward.
    """

    def decode(ids: list[int]) -> str:
        # Without the end of the turn, which a guard would take for an attempt to write the template's tokens.
        return tokenizer.decode(ids, skip_special_tokens=True)

    ends = token_ends(decode, response_ids)
    text = decode(response_ids)
    score = await (client or _client()).ascore(problem_of(problem), text, answer=answer) if text.strip() else None
    return place(score, ends)


def place(score: Score | None, ends: list[int]) -> list[float]:
    """Distributes the reward of a scored response over its tokens.

    Args:
        score: score of the response as one text.
        ends: number of characters up to the end of each token.
    """
    rewards = [0.0] * len(ends)
    if score is None or not score.reward or not rewards:
        return rewards
    known = [one for one in score.scores if one is not None]
    parts = min_form(known) if score.spans is not None and len(known) == len(score.scores) else []
    total = sum(parts)
    if total > 0 and score.spans is not None and score.correct is not None:
        # The steps' part of the reward: see `genprm.rewards.gated_reward`.
        process = max(0.0, score.reward - (1 - _weight_of(score, min(known))))
        owners = token_steps([Span(*span) for span in score.spans], list(zip([0, *ends], ends, strict=False)))
        rewards = at_ends([part * process / total for part in parts], owners)
    rewards[-1] += score.reward - sum(rewards)
    return rewards


def _weight_of(score: Score, lowest: float) -> float:
    """The service's weight, solved from reward = 1 - weight + weight * lowest."""
    assert score.reward is not None
    return 0.0 if lowest >= 1 else (1 - score.reward) / (1 - lowest)


class ProcessEnv(_Environment):
    """A single-turn environment with the gated process reward, for `skyrl_gym.register`.

    Args:
        env_config: not used.
        extras: a row: `reward_spec["ground_truth"]`, and the problem in `extra_info` or in `prompt`.
    """

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        del env_config
        super().__init__()
        extras = extras or {}
        self.answer = (extras.get("reward_spec") or {}).get("ground_truth")
        info: dict[str, Any] = extras.get("extra_info") or {}
        self.problem: object = info.get("problem") or info.get("question") or extras.get("prompt")
        self.turns, self.max_turns = 0, 1

    def init(self, prompt: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the first prompt."""
        self.problem = self.problem or prompt
        return prompt, {}

    def step(self, action: str) -> dict[str, Any]:
        """Rewards the policy's answer; `metadata` has the step scores."""
        answer = None if self.answer in (None, "") else str(self.answer)
        solution = solution_of(action)
        score = _client().score(problem_of(self.problem), solution, answer=answer) if solution else None
        reward = 0.0 if score is None or score.reward is None else score.reward
        metadata = {"genprm_scores": None if score is None else score.scores}
        return {"observations": [], "reward": reward, "done": True, "metadata": metadata}

    def get_metrics(self) -> dict[str, Any]:
        """Returns no metrics."""
        return {}

    def close(self) -> None:
        """Does nothing."""
