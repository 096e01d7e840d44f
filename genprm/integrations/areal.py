"""AReaL: pass `reward_fn` to an RLVR workflow. Written for areal 1.0.4.

AReaL runs it in a pool of processes with a time-out of 15 s and four attempts; after that the reward is 0 and only a
log line says so. The client therefore answers within 14 s, with 0 if there is no reward. If judging takes longer, raise
`timeout_seconds` of AReaL's `AsyncRewardWrapper`, and `GENPRM_TIMEOUT_S` here.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from genprm.chat_text import problem_of, solution_of
from genprm.client import Client

_ANSWERS = ("answer", "ground_truth", "label")
_PROBLEMS = ("problem", "question", "messages")


@cache
def _client() -> Client:
    return Client(timeout_s=float(os.environ.get("GENPRM_TIMEOUT_S", "14")))


def reward_fn(prompt: str, completions: str, prompt_ids: list[int], completion_ids: list[int], **row: Any) -> float:
    """The gated process reward of one completion.

    Args:
        prompt: the rendered chat template; the source of the problem if the row has none.
        completions: the completion.
        prompt_ids: not used.
        completion_ids: not used.
        **row: the other columns: `problem`, `question` or `messages`; `answer`, `ground_truth` or `label`.

    Returns:
        0 if there is no reward; `client.stats` of the worker's process counts these.
    """
    del prompt_ids, completion_ids
    solution = solution_of(completions)
    if not solution:
        return 0.0
    problem = problem_of(next((row[name] for name in _PROBLEMS if row.get(name)), prompt))
    answer = next((str(row[name]) for name in _ANSWERS if row.get(name) is not None), None)
    score = _client().score(problem, solution, answer=answer)
    return 0.0 if score is None or score.reward is None else score.reward
