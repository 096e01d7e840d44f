"""slime: `--custom-rm-path genprm.integrations.slime.custom_rm`. Written for slime's repository, mid 2026.

The service also answers `--rm-type remote_rm --rm-url http://HOST:8311/rm` directly; this function adds retries and
puts the step scores into the sample's metadata.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any, cast

from genprm.chat_text import problem_of, solution_of
from genprm.client import Client


@cache
def _client() -> Client:
    return Client(timeout_s=110.0)


async def custom_rm(args: Any, sample: Any, **_: Any) -> Any:
    """The gated process reward of one sample, or with `--group-rm` those of a list of samples.

    Args:
        args: slime's; not used.
        sample: `prompt` (text or messages), `response`, `label` (the reference answer), `metadata`.

    Returns:
        A number, or a list of them. 0 if there is no reward; `metadata["genprm_missing"]` then says so.
    """
    del args
    if isinstance(sample, list):
        return await asyncio.gather(*(_reward(one) for one in cast("list[Any]", sample)))
    return await _reward(sample)


async def _reward(sample: Any) -> float:
    metadata = sample.metadata if isinstance(sample.metadata, dict) else None
    solution = solution_of(sample.response)
    if not solution:
        return 0.0
    answer = None if sample.label in (None, "") else str(sample.label)
    score = await _client().ascore(problem_of(sample.prompt), solution, answer=answer)
    missing = score is None or score.reward is None
    if metadata is not None:
        metadata["genprm_missing"] = missing
        metadata["genprm_scores"] = None if score is None else score.scores
    return 0.0 if score is None or score.reward is None else score.reward
