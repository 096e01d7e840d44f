"""The adapters, called as their frameworks call them, against a live service. `test_frameworks` has the frameworks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genprm.integrations import areal, openrlhf, skyrl, slime, verl
from genprm.integrations.trl import process_reward
from genprm.prms import load_prm
from tests.serve.shared import Live, SteppedJudge, live

ROOT = Path(__file__).parent.parent.parent
PROBLEM = "What is 1 + 1?"
PROMPT = f"<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n"
RIGHT, WRONG = "2 = 2\n\n\\boxed{2} = \\boxed{2}", "2 = 3\n\n\\boxed{3} = \\boxed{3}"
FLAWED = "2 = 3\n\n\\boxed{2} = \\boxed{2}"


@pytest.fixture(scope="module")
async def service() -> AsyncGenerator[Live]:
    async with live(SteppedJudge()) as one:
        before = os.environ.get("GENPRM_URL")
        os.environ["GENPRM_URL"] = one.url
        yield one
        if before is None:
            del os.environ["GENPRM_URL"]
        else:
            os.environ["GENPRM_URL"] = before


@pytest.mark.parametrize("chat", [True, False])
async def test_trl(service: Live, chat: bool) -> None:
    texts = [RIGHT, WRONG, FLAWED, ""]
    prompts: list[Any] = [[{"role": "user", "content": PROBLEM}]] * 4 if chat else [PROMPT] * 4
    completions: list[Any] = [[{"role": "assistant", "content": text}] for text in texts] if chat else texts
    logged: dict[str, float] = {}
    rewards = await process_reward()(
        prompts=prompts,
        completions=completions,
        completion_ids=[[1]] * 4,
        answer=["2", "2", 2, "2"],
        trainer_state=None,
        log_extra=lambda *_: None,
        log_metric=logged.__setitem__,
    )
    assert rewards == pytest.approx([0.95, 0.0, 0.5, 0.0])
    assert logged == {"genprm/missing": 0.0, "genprm/violations": 1.0}  # the empty one


async def test_verl(service: Live) -> None:
    def call(text: str, truth: Any) -> Any:
        return verl.compute_score(
            data_source="math", solution_str=text, ground_truth=truth, extra_info={"question": PROBLEM, "index": 3}
        )

    assert await call(RIGHT, "2") == {"score": pytest.approx(0.95), "acc": 1.0, "process": 0.9, "missing": 0.0}
    assert (await call(WRONG, "2"))["score"] == 0.0
    assert set(await call("", "2")) == set(await call(RIGHT, ""))  # verl wants the same keys of every sample
    with pytest.raises(ValueError, match="needs the problem"):
        await verl.compute_score("math", RIGHT, "2", {})


async def test_openrlhf(service: Live) -> None:
    queries = [f"{PROMPT}{text}<|im_end|>" for text in (RIGHT, WRONG, FLAWED, "")]
    given = await asyncio.to_thread(openrlhf.reward_func, queries, [PROMPT] * 4, ["2"] * 4)
    assert given["rewards"] == pytest.approx([0.95, 0.0, 0.5, 0.0])
    assert given["extra_logs"]["correct"] == [1.0, 0.0, 1.0, -1.0]
    assert given["extra_logs"]["violation"] == [0.0, 0.0, 0.0, 1.0]
    assert given["extra_logs"]["missing"] == [0.0] * 4


async def test_slime(service: Live) -> None:
    sample = SimpleNamespace(prompt=PROMPT, response=FLAWED, label="2", metadata={})
    assert await slime.custom_rm(SimpleNamespace(), sample) == 0.5
    assert sample.metadata == {"genprm_missing": False, "genprm_scores": [0.0, 0.9]}
    group = [SimpleNamespace(prompt=PROMPT, response=text, label="2", metadata={}) for text in (RIGHT, WRONG)]
    assert await slime.custom_rm(SimpleNamespace(), group) == pytest.approx([0.95, 0.0])


async def test_areal(service: Live) -> None:
    def call(text: str) -> float:
        return areal.reward_fn(PROMPT, text, [1], [2], answer="2", query_id="0")

    assert await asyncio.to_thread(call, RIGHT) == pytest.approx(0.95)
    assert await asyncio.to_thread(call, WRONG) == 0.0


class _Bytes:
    """A tokenizer with a token for each character, and token 0 for the end of a turn."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(one) if one else "" if skip_special_tokens else "<|im_end|>" for one in ids)


async def test_skyrl(service: Live) -> None:
    text = "\\boxed{2} = \\boxed{2}\n\n2 = 2"
    rewards = await skyrl.token_rewards(_Bytes(), PROMPT, list(map(ord, text)), answer="2")
    assert len(rewards) == len(text)
    assert sum(rewards) == pytest.approx(0.95)
    ends = [text.index("\n\n") + 1, len(text) - 1]  # white space belongs to the step before it
    first = rewards[ends[0]]
    assert first == pytest.approx(0.225)  # half of what the steps decide of the reward, 0.95 - 0.5
    assert [index for index, one in enumerate(rewards) if one] == ends
    ended = await skyrl.token_rewards(_Bytes(), PROMPT, [*map(ord, text), 0], answer="2")
    assert len(ended) == len(rewards) + 1
    assert sum(ended) == pytest.approx(0.95)
    wrong = await skyrl.token_rewards(_Bytes(), PROMPT, list(map(ord, WRONG)), answer="2")
    assert not any(wrong)
    env = skyrl.ProcessEnv(
        extras={"reward_spec": {"ground_truth": "2"}, "prompt": [{"role": "user", "content": PROBLEM}]}
    )
    env.init([])
    step = await asyncio.to_thread(env.step, RIGHT)
    assert (step["reward"], step["done"], step["metadata"]) == (
        pytest.approx(0.95),
        True,
        {"genprm_scores": [0.9, 0.9]},
    )


@pytest.mark.slow
@pytest.mark.bubblewrap
async def test_the_example_of_trl_trains_against_a_live_judge(tmp_path: Path) -> None:
    prm = await load_prm("nano", sandbox="bubblewrap")
    try:
        async with live(prm) as one:
            run = await asyncio.create_subprocess_exec(
                sys.executable,
                str(ROOT / "examples" / "rl" / "trl_grpo.py"),
                *("--steps", "2", "--problems", "4", "--out", str(tmp_path)),
                env={**os.environ, "GENPRM_URL": one.url},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = await run.communicate()
            assert run.returncode == 0, err.decode()[-3000:]
            assert out.decode().startswith("2 steps") or "\n2 steps" in out.decode(), out.decode()
            assert await one.metric('genprm_requests_total{path="/v1/score",status="200"}') > 0
            assert await one.metric('genprm_solutions_total{outcome="judged"}') > 0
    finally:
        await prm.close()
