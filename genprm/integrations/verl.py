"""verl: `reward.custom_reward_function.path=pkg://genprm.integrations.verl`. Written for verl 0.9.1.

`name=compute_score`; `reward_kwargs` are its keyword arguments. The problem must be in `extra_info` as `problem`,
`question` or `prompt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from genprm.chat_text import problem_of, solution_of
from genprm.client import Client

_PROBLEM = ("problem", "question", "prompt")


@cache
def _client(url: str | None, timeout_s: float) -> Client:
    return Client(url, timeout_s=timeout_s)


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | float | None,
    extra_info: Mapping[str, Any] | None = None,
    *,
    url: str | None = None,
    timeout_s: float = 240.0,
    **_: Any,
) -> dict[str, float]:
    """The gated process reward of one response.

    Args:
        data_source: not used.
        solution_str: the response.
        ground_truth: the reference answer; empty for none: then the reward is not gated.
        extra_info: holds the problem.
        url: the service; by default from the environment.
        timeout_s: verl's rate-limited manager waits 300 s.

    Returns:
        `score`, and for verl's logs `acc` (the answer), `process` (the lowest step score, -1 without one) and `missing`
        (1 if there is no reward; then the score is 0).

    Raises:
        ValueError: `extra_info` has no problem.
    """
    del data_source
    found = next((extra_info[name] for name in _PROBLEM if extra_info and extra_info.get(name)), None)
    if found is None:
        raise ValueError(f"extra_info needs the problem, as one of {_PROBLEM}: {sorted(extra_info or {})!r}")
    answer = None if ground_truth in (None, "") else str(ground_truth)
    solution = solution_of(solution_str)
    if not solution:
        return {"score": 0.0, "acc": 0.0, "process": -1.0, "missing": 0.0}
    score = await _client(url, timeout_s).ascore(problem_of(found), solution, answer=answer)
    known = [one for one in score.scores if one is not None] if score else []
    return {
        "score": score.reward if score is not None and score.reward is not None else 0.0,
        "acc": float(bool(score and score.correct)),
        "process": min(known, default=-1.0),
        "missing": float(score is None or score.reward is None),
    }
