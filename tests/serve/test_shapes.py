"""Other callers' formats. The payloads are those of their released packages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from genprm.chat_text import problem_of, solution_of
from genprm.serve import shapes
from genprm.serve.settings import ServeConfig
from tests.judges import ArithmeticJudge
from tests.serve.shared import Live, SteppedJudge, live

PROMPT = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
RIGHT, WRONG = "2 = 2\n\n\\boxed{2} = \\boxed{2}", "2 = 2\n\n\\boxed{3} = \\boxed{3}"


@pytest.fixture(scope="module")
async def served() -> AsyncGenerator[tuple[Live, ArithmeticJudge]]:
    judge = ArithmeticJudge()
    async with live(judge, ServeConfig(max_items=8)) as one:
        yield one, judge


async def test_openrlhf(served: tuple[Live, ArithmeticJudge]) -> None:
    # openrlhf 0.11.2, utils/agent.py: the query is decoded with its special tokens.
    one, judge = served
    judge.judged.clear()
    queries = [f"{PROMPT}{text}<|im_end|>" for text in (RIGHT, WRONG, "")]
    sent = {"query": queries, "prompts": [PROMPT] * 3, "labels": ["2", "2", "2"]}
    given = (await one.post("/get_reward", sent)).json()
    assert given["rewards"] == pytest.approx([0.95, 0.0, 0.0])
    assert given["scores"] == given["rewards"]
    assert given["extra_logs"] == {
        "correct": [1.0, 0.0, -1.0],
        "violation": [0.0, 0.0, 1.0],
        "missing": [0.0, 0.0, 0.0],
    }
    assert judge.judged == ["What is 1 + 1?"]  # a wrong answer's reward is known without the judge
    ungated = (
        await one.post("/get_reward", {"query": queries[:2], "prompts": [PROMPT] * 2, "labels": ["", ""]})
    ).json()
    assert ungated["rewards"] == pytest.approx([0.9, 0.9])
    short = await one.post("/get_reward", {"query": queries, "prompts": [PROMPT], "labels": [None]})
    assert short.status_code == 422


@pytest.mark.parametrize(
    "bad", ["hm</think>", "<think>hm</think>", "hm</think> <think>hm", "\n\n".join(["2 = 2"] * 300), "2 = 2 " * 40_000]
)
async def test_a_degenerate_completion_costs_only_its_own_reward(
    served: tuple[Live, ArithmeticJudge], bad: str
) -> None:
    one, _ = served
    sent = {"query": [PROMPT + bad, PROMPT + RIGHT], "prompts": [PROMPT] * 2, "labels": ["2", "2"]}
    given = (await one.post("/get_reward", sent)).json()
    assert given["rewards"] == pytest.approx([0.0, 0.95])
    assert given["extra_logs"]["violation"] == [1.0, 0.0]
    assert (await one.post("/rm", {"prompt": PROMPT, "response": bad, "label": "2"})).json() == 0.0


@pytest.mark.parametrize("value", ['"\\ud800"', "[" * 400 + "]" * 400, "NaN", "1e999"])
async def test_what_cannot_be_sent_back_is_refused(served: tuple[Live, ArithmeticJudge], value: str) -> None:
    one, judge = served
    judge.judged.clear()
    body = json.dumps({**_gym("2 = 2"), "more": 0}).replace('"more": 0', f'"more": {value}')
    response = await one.http.post("/verify", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert "cannot be returned as JSON" in response.json()["error"]["message"]
    assert not judge.judged


async def test_slime(served: tuple[Live, ArithmeticJudge]) -> None:
    # slime, rollout/rm_hub: the JSON body is the reward.
    one, _ = served
    messages = [{"role": "user", "content": "What is 1 + 1?"}]
    for prompt in (PROMPT, messages):
        for response, label, reward in ((RIGHT, "2", 0.95), (WRONG, "2", 0.0), (RIGHT, 2, 0.95), (WRONG, None, 0.9)):
            given = await one.post("/rm", {"prompt": prompt, "response": response, "label": label})
            assert given.json() == pytest.approx(reward)
    assert (await one.post("/rm", {"prompt": PROMPT, "response": " ", "label": "2"})).json() == 0.0


def _gym(text: str, **more: Any) -> dict[str, Any]:
    # nemo-gym 0.7.0: BaseVerifyRequest, whose response is one of OpenAI's Responses API.
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": content}
    thought = {"id": "r", "type": "reasoning", "summary": [{"type": "summary_text", "text": "3 = 4"}]}
    response = {"id": "resp", "object": "response", "created_at": 0.0, "model": "m", "output": [thought, message]}
    params = {"input": [{"role": "user", "content": "What is 1 + 1?", "type": "message"}]}
    return {"responses_create_params": params, "response": response, **more}


async def test_nemo_gym(served: tuple[Live, ArithmeticJudge]) -> None:
    one, _ = served
    sent = _gym(RIGHT, expected_answer="2", uuid="7")
    given = (await one.post("/verify", sent)).json()
    assert given["reward"] == pytest.approx(0.95)
    assert given["mask_sample"] is False
    assert given["step_scores"] == [0.9, 0.9]
    assert {name: given[name] for name in sent} == sent
    assert (await one.post("/verify", _gym(WRONG, expected_answer="2"))).json()["reward"] == 0.0
    unscored = (await one.post("/verify", _gym("no equation"))).json()
    assert (unscored["reward"], unscored["mask_sample"]) == (0.0, True)
    assert "no chain gave a verdict" in unscored["failure_reason"]
    text = {**_gym(RIGHT), "responses_create_params": {"input": "What is 1 + 1?"}}
    assert (await one.post("/verify", text)).json()["reward"] == pytest.approx(0.9)
    assert (await one.post("/verify", {**sent, "response": {"output": 3}})).status_code == 422


async def test_callers_are_answered_before_they_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENRLHF_S", "SLIME_S", "GYM_S"):
        monkeypatch.setattr(shapes, name, 0.3)
    endless = f"{RIGHT}\n\nwait"
    sent = {"query": [PROMPT + endless, PROMPT + RIGHT], "prompts": [PROMPT] * 2}
    async with asyncio.timeout(10), live(SteppedJudge()) as one:
        given = (await one.post("/get_reward", sent)).json()
        assert given["rewards"] == pytest.approx([0.0, 0.9])
        assert given["extra_logs"]["missing"] == [1.0, 0.0]
        assert (await one.post("/rm", {"prompt": PROMPT, "response": endless})).json() is None
        gym = (await one.post("/verify", _gym(endless))).json()
        assert (gym["reward"], gym["mask_sample"]) == (0.0, True)
        assert "0.3 s had passed" in gym["failure_reason"]


async def test_vllm_pooling(served: tuple[Live, ArithmeticJudge]) -> None:
    # As clients of Qwen2.5-Math-PRM send it: each step ends in <extra_0>.
    one, _ = served
    answer = "2 = 2<extra_0>2 = 3<extra_0>?<extra_0>"
    messages = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": answer}]
    for sent in ({"messages": messages}, {"input": f"{PROMPT}{answer}<|im_end|><|endoftext|>"}):
        given = (await one.post("/pooling", {"model": "any", **sent})).json()
        assert given["object"] == "list"
        assert given["data"][0]["object"] == "pooling"
        pairs = given["data"][0]["data"]
        assert [pair[1] for pair in pairs] == [0.9, 0.0, None]
        assert pairs[0] == pytest.approx([0.1, 0.9])
    many = (await one.post("/pooling", {"input": [f"{PROMPT}{answer}"] * 2})).json()
    assert [one["index"] for one in many["data"]] == [0, 1]
    assert (await one.post("/pooling", {"model": "any"})).status_code == 422
    assert (await one.post("/pooling", {"input": [PROMPT + answer] * 9})).status_code == 413


@pytest.mark.parametrize(
    "prompt",
    [
        "What is it?",
        "<|im_start|>user\nOther<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is it?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<bos><start_of_turn>user\nWhat is it?<end_of_turn>\n<start_of_turn>model\n",
        "<｜begin▁of▁sentence｜><｜User｜>What is it?<｜Assistant｜><think>\n",
        "<s>[INST] What is it? [/INST]",
        [{"role": "system", "content": "x"}, {"role": "user", "content": "What is it?"}],
        [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "it?"}]}],
    ],
)
def test_the_problem_is_read_off_a_prompt(prompt: object) -> None:
    assert problem_of(prompt) == "What is it?"


@pytest.mark.parametrize(
    ("completion", "solution"),
    [
        ("It is 2.<|im_end|>", "It is 2."),
        ("It is 2.<｜end▁of▁sentence｜>\n", "It is 2."),
        ("hm</think>\nIt is 2.</s>", "It is 2."),
        ("hm </think>", ""),
        ("<think> hm", ""),
        ([{"role": "assistant", "content": "It is 2."}], "It is 2."),
        ([], ""),
        ("a < b and |x|> 2", "a < b and |x|> 2"),
    ],
)
def test_the_solution_is_read_off_a_completion(completion: object, solution: str) -> None:
    assert solution_of(completion) == solution


@pytest.mark.parametrize("prompt", [3, [], [{"role": "assistant", "content": "x"}], None])
def test_what_is_no_prompt(prompt: object) -> None:
    with pytest.raises(ValueError, match="a prompt must be"):
        problem_of(prompt)
