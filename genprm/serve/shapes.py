"""Endpoints in the formats of RL frameworks and vLLM clients."""

from __future__ import annotations

import json
import math
import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictFloat, StrictInt
from pydantic_core import to_json

from genprm.chat_text import problem_of, solution_of, text_of
from genprm.serve.errors import Refusal, Unfit
from genprm.serve.native import ERRORS, Serving, unless_gone
from genprm.serve.schemas import read_row
from genprm.serve.service import Answer, Service, Wanted, unfit_solution

OPENRLHF_S, SLIME_S, GYM_S = 170.0, 110.0, 110.0
"""Slightly below the callers' timeouts: 180 s, 120 s, and that of NeMo Gym's clients."""
SEPARATOR = "<extra_0>"
"""The end of each step for the released discriminative PRMs on vLLM (Qwen2.5-Math-PRM)."""

router = APIRouter()
Label = str | StrictInt | StrictFloat | None
"""A reference answer. `true` and `false` are none: they must not count as the numbers 1 and 0."""


class _Loose(BaseModel):
    # Callers send additional fields.
    model_config = ConfigDict(extra="allow", frozen=True)


class RewardAsked(_Loose):
    """OpenRLHF's request to `--reward.remote_url`."""

    query: list[str] = Field(min_length=1, description="Prompt and response, with the tokens of the chat template.")
    prompts: list[str]
    labels: list[Label] | None = Field(default=None, description="The reference answers.")


class RewardGiven(BaseModel):
    """OpenRLHF's response: `rewards` for training, `scores` in [0, 1] for filtering, `extra_logs` for plots."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]
    """`correct` is -1 where it is unknown."""


@router.post("/get_reward", responses=ERRORS, summary="OpenRLHF: --reward.remote_url")
async def get_reward(request: Request, asked: RewardAsked, service: Serving) -> RewardGiven:
    """Rewards, gated by the labels if there are any.

    A missing reward is 0, marked in `extra_logs` as `missing`: OpenRLHF makes tensors of the values, and stops at null.
    """
    if len(asked.query) != len(asked.prompts) or (asked.labels and len(asked.labels) != len(asked.query)):
        raise Refusal(422, "invalid", f"{len(asked.query)} queries need as many prompts and labels")
    wanted = [
        _wanted(prompt, query[len(prompt) :] if query.startswith(prompt) else query, label, service)
        for query, prompt, label in zip(
            asked.query, asked.prompts, asked.labels or [None] * len(asked.query), strict=True
        )
    ]
    answers = await _rewarded(request, service, wanted, OPENRLHF_S)
    rewards = [answer.reward or 0.0 for answer in answers]
    correct = [answer.outcome.correct for answer in answers]
    return RewardGiven(
        rewards=rewards,
        scores=rewards,
        extra_logs={
            "correct": [-1.0 if right is None else float(right) for right in correct],
            "violation": [float(answer.outcome.violation is not None) for answer in answers],
            "missing": [float(answer.reward is None) for answer in answers],
        },
    )


class RmAsked(_Loose):
    """slime's request to `--rm-url`."""

    prompt: str | list[dict[str, JsonValue]]
    response: str
    label: Label = None


@router.post("/rm", responses=ERRORS, summary="slime: --rm-type remote_rm --rm-url")
async def remote_rm(request: Request, asked: RmAsked, service: Serving) -> float | None:
    """The body is the reward itself."""
    wanted = [_wanted(asked.prompt, asked.response, asked.label, service)]
    answer = (await _rewarded(request, service, wanted, SLIME_S))[0]
    return answer.reward


class VerifyAsked(_Loose):
    """NeMo Gym's request to a resources server's `/verify`: a rollout, in the format of OpenAI's Responses API."""

    responses_create_params: dict[str, JsonValue]
    response: dict[str, JsonValue]


@router.post("/verify", responses=ERRORS, summary="NeMo Gym: a resources server's verify")
async def verify(request: Request, asked: VerifyAsked, service: Serving) -> dict[str, Any]:
    """The request with its `reward`. The reference answer is `expected_answer`, `answer` or `label`, if present.

    Without a reward, it is 0 and `mask_sample` is set.
    """
    sent: dict[str, Any] = asked.model_dump()
    try:
        # The response has it too.
        json.dumps(sent, ensure_ascii=False, allow_nan=False).encode()
        to_json(sent)  # is less deep
    except (ValueError, RecursionError) as error:
        raise Refusal(422, "invalid", f"the request cannot be returned as JSON: {error}") from None
    label = next((sent[name] for name in ("expected_answer", "answer", "label") if sent.get(name) is not None), None)
    if label is not None and (isinstance(label, bool) or not isinstance(label, (str, int, float))):
        raise Refusal(422, "invalid", f"the reference answer must be a text or a number, not {str(label)[:80]!r}")
    try:
        problem = problem_of(asked.responses_create_params.get("input"))
        solution = _output_of(asked.response)
    except ValueError as error:
        raise Refusal(422, "invalid", str(error)) from None
    answer = (await _rewarded(request, service, [_wanted(problem, solution, label, service)], GYM_S))[0]
    given: dict[str, Any] = {**sent, "reward": answer.reward or 0.0, "mask_sample": answer.reward is None}
    if answer.judgement is not None:
        given["step_scores"] = answer.judgement.scores
    if answer.reward is None:
        given["failure_reason"] = answer.reason
    return given


def _output_of(response: dict[str, JsonValue]) -> str:
    """The text of a response's messages, without reasoning and tool calls."""
    output = response.get("output")
    if not isinstance(output, list):
        raise ValueError(f"response.output must be a list, not {str(output)[:80]!r}")
    messages = [one for one in output if isinstance(one, dict) and one.get("type", "message") == "message"]
    return "\n\n".join(text for one in messages if (text := text_of(one.get("content")).strip()))


class PoolingAsked(_Loose):
    """vLLM's request to `/pooling`: a text in ChatML, or messages; the steps end in `<extra_0>`."""

    model: str | None = None
    input: str | list[str] | None = None
    messages: list[dict[str, JsonValue]] | None = None


@router.post("/pooling", responses=ERRORS, summary="vLLM's /pooling, for step scores")
async def pooling(request: Request, asked: PoolingAsked, service: Serving) -> dict[str, Any]:
    """`data[i].data[step]` is `[1 - score, score]`, as in vLLM for Qwen2.5-Math-PRM.

    A step without a score has `[null, null]`.
    """
    if (asked.input is None) == (asked.messages is None):
        raise Refusal(422, "invalid", 'a request needs either "input" or "messages"')
    texts: list[Any] = [asked.messages] if asked.messages is not None else _as_list(asked.input)
    if len(texts) > service.config.max_items:
        raise Refusal(413, "too_many", f"{len(texts)} inputs exceed max_items, {service.config.max_items}")
    wanted = [_pooled(text, service) for text in texts]
    answers = await unless_gone(request, service.answers(wanted, None))
    failed = next((answer.error for answer in answers if answer.error is not None), None)
    if failed is not None:
        raise failed
    data: list[dict[str, Any]] = []
    spent = 0
    for index, answer in enumerate(answers):
        assert answer.judgement is not None
        pairs = [[None, None] if score is None else [1 - score, score] for score in answer.judgement.scores]
        data.append({"index": index, "object": "pooling", "data": pairs})
        spent += answer.judgement.tokens.prompt
    return {
        "id": f"pool-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": service.prm.name,
        "data": data,
        "usage": {"prompt_tokens": spent, "total_tokens": spent, "completion_tokens": 0},
    }


def _pooled(asked: str | list[dict[str, JsonValue]], service: Service) -> Wanted:
    try:
        problem = problem_of(asked)
        if isinstance(asked, str):
            solution = asked.rpartition("<|im_start|>assistant\n")[2]
        else:
            solution = text_of(asked[-1].get("content"))
    except ValueError as error:
        raise Refusal(422, "invalid", str(error)) from None
    steps = [step for part in solution_of(solution).split(SEPARATOR) if (step := solution_of(part))]
    return _checked({"problem": problem, "steps": steps}, service)


def _wanted(prompt: object, response: str, label: Label, service: Service) -> Wanted:
    """A solution to reward."""
    try:
        problem = problem_of(prompt)
    except ValueError as error:
        raise Refusal(422, "invalid", str(error)) from None
    solution = solution_of(response)
    if isinstance(label, float) and not math.isfinite(label):
        raise Refusal(422, "invalid", f"a label must be a text or a finite number, not {label!r}")
    # Data sets use an empty label for none.
    given: dict[str, object] = {"problem": problem, "solution": solution, "answer": None if label == "" else label}
    try:
        return _checked(given, service)
    except Unfit as unfit:
        return unfit_solution(unfit, problem)


def _checked(value: dict[str, object], service: Service) -> Wanted:
    return Wanted(read_row(value, service.config))


async def _rewarded(request: Request, service: Service, wanted: list[Wanted], timeout_s: float) -> list[Answer]:
    if len(wanted) > service.config.max_items:
        raise Refusal(413, "too_many", f"{len(wanted)} solutions exceed max_items, {service.config.max_items}")
    answers = await unless_gone(request, service.answers(wanted, timeout_s, reward_only=True))
    failed = next((answer.error for answer in answers if answer.error is not None), None)
    if failed is not None and len(answers) == 1:
        raise failed
    return answers


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []
