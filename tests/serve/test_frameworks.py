"""The adapters inside the released frameworks, each called by the framework's own code, against a live service."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import yaml

from genprm.data.word_problems import make_problems
from tests.conftest import ROOT, Distributions
from tests.serve.frameworks import environments
from tests.serve.frameworks.environments import EXAMPLES, PROGRAMS, UV, install_alone, run
from tests.serve.frameworks.policy import policy
from tests.serve.shared import Live, SteppedJudge, live

pytestmark = pytest.mark.slow

PROBLEM = "What is 1 + 1?"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]
PROMPT = f"<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n"
RIGHT, WRONG = "2 = 2\n\n\\boxed{2} = \\boxed{2}", "2 = 2\n\n\\boxed{3} = \\boxed{3}"
FLAWED, UNCLEAR = "2 = 3\n\n\\boxed{2} = \\boxed{2}", "no equation \\boxed{2}"
"""A wrong first step; and one that the judge gives no verdict on."""


@pytest.fixture(scope="module")
async def service() -> AsyncGenerator[Live]:
    async with live(SteppedJudge()) as one:
        yield one


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, distributions: Distributions) -> Path:
    """This package, installed without its dependencies."""
    folder = tmp_path_factory.mktemp("alone")
    install_alone(distributions.wheel, folder)
    return folder


@pytest.fixture(scope="session")
def evaluators() -> Path:
    return environments.evaluators()


@pytest.fixture(scope="session")
def trainers() -> str:
    return f"{ROOT}:{EXAMPLES}:{environments.trainers()}"


async def test_inspect(service: Live, evaluators: Path, alone: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [
        {"question": PROBLEM, "answer": "One and one is <<1+1=2>>2.\n#### 2"},
        {"question": "What is 600 + 600?", "answer": "#### 1,200"},
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    own: dict[str, Any] = {"problem": PROBLEM, "target": "2", "gated": False}
    asked = [
        {**own, "outputs": [RIGHT, FLAWED, WRONG, UNCLEAR, ""]},
        {**own, "outputs": [RIGHT, FLAWED, WRONG], "gated": True},
        {"rows": str(rows), "outputs": [FLAWED, "1200 = 1200\n\n\\boxed{1200} = \\boxed{1200}"]},
    ]
    told = await run(
        evaluators,
        *(PROGRAMS / "in_inspect.py", tmp_path / "logs"),
        given=asked,
        GENPRM_URL=service.url,
        PYTHONPATH=f"{EXAMPLES}:{alone}",
    )
    plain, gated, example = json.loads(told)
    assert [one["status"] for one in (plain, gated, example)] == ["success"] * 3

    right, flawed, wrong, unclear, empty = (sample["process"] for sample in plain["samples"])
    assert [right["value"], flawed["value"], wrong["value"], empty["value"]] == [0.9, 0.0, 0.9, 0.0]
    assert flawed["explanation"] == "step 1 is judged wrong"
    about = {"scores": [0.0, 0.9], "first_error": 0, "correct": True, "violation": None, "reward": 0.5}
    assert flawed["metadata"] == about
    assert wrong["metadata"]["correct"] is False
    # Not scored, counted as such, and the reason is kept.
    assert math.isnan(unclear["value"])
    assert "no chain gave a verdict" in unclear["explanation"]
    total = plain["totals"]["process"]
    assert (total["scored"], total["unscored"]) == (4, 1)
    assert total["mean"] == pytest.approx(0.45)

    assert [sample["process"]["value"] for sample in gated["samples"]] == pytest.approx([0.95, 0.5, 0.0])

    assert [sample["math"]["value"] for sample in example["samples"]] == ["C", "C"]
    assert [sample["process"]["value"] for sample in example["samples"]] == [0.0, 0.9]
    assert all(sample["process"]["metadata"]["correct"] for sample in example["samples"])


async def test_the_example_of_verifiers(service: Live, evaluators: Path, alone: Path, tmp_path: Path) -> None:
    # vf-eval itself: it reads the file, loads the judge by its id, runs an agent for each task, and scores its reply.
    written = tomllib.loads((EXAMPLES / "verifiers.toml").read_text())
    right, flawed, wrong, unclear = make_problems(4, seed=31_000, steps=(2, 3))
    last = "\n\n\\boxed{{{0}}} = \\boxed{{{0}}}"
    answers = {
        right.text: f"<think>2 = 3</think>2 = 2{last.format(right.answer)}",
        flawed.text: f"2 = 3{last.format(flawed.answer)}",
        wrong.text: f"2 = 2{last.format(int(wrong.answer) + 1)}",
        unclear.text: f"no equation \\boxed{{{unclear.answer}}}",
    }
    with policy(answers) as url:
        await run(
            evaluators.parent / "vf-eval",
            *("@", EXAMPLES / "verifiers.toml", "--no-rich", "--model", "given", "--client.base-url", url),
            *("--num-rollouts", "1", "--env.taskset.problems", "4", "--output-dir", tmp_path, "--run.dir", "run"),
            cwd=tmp_path,
            GENPRM_URL=service.url,
            PYTHONPATH=f"{EXAMPLES}:{alone}",
            PATH=f"{UV.parent}:/usr/local/bin:/usr/bin:/bin",
        )
    told = [json.loads(line) for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()]
    traces: dict[str, Any] = {episode["task"]["data"]["prompt"]: episode["traces"][0] for episode in told}
    name, [judge] = "process", written["env"]["taskset"]["task"]["judges"]
    assert judge["id"] == "genprm_process"
    rewards = [traces[one.text]["rewards"][name]["score"] for one in (right, flawed, wrong)]
    assert rewards == pytest.approx([0.95, 0.5, 0.0])
    assert traces[flawed.text]["info"]["genprm_scores"] == [0.0, 0.9]
    # A missing reward is an error of the rollout, not a 0.
    failed = traces[unclear.text]
    assert (failed["rewards"], failed["ok"], failed["errors"][0]["type"]) == ({name: None}, False, "TaskError")
    assert "no reward" in failed["errors"][0]["message"]


VERL_MANAGER = (
    "reward.reward_manager.source=importlib",
    "reward.reward_manager.module.path=pkg://genprm.integrations.verl_manager",
    "reward.reward_manager.name=ProcessRewardManager",
)
VERL_FUNCTION = (
    "reward.custom_reward_function.path=pkg://genprm.integrations.verl",
    "reward.custom_reward_function.name=compute_score",
)


async def test_verl(service: Live, trainers: str) -> None:
    right = {"problem": PROBLEM, "answer": "2", "responses": [RIGHT]}
    rows = [
        right,
        {"messages": MESSAGES, "answer": "2", "responses": [FLAWED]},
        {**right, "responses": ["Much longer than the turn after it. " * 4, RIGHT]},
        {**right, "padded": True},
        {**right, "responses": [UNCLEAR]},
    ]
    # Ray's workers need not have the variable.
    nowhere = "+reward.custom_reward_function.reward_kwargs.url=http://127.0.0.1:1"
    soon = "+reward.custom_reward_function.reward_kwargs.timeout_s=0.5"
    asked = [
        {"overrides": VERL_MANAGER, "rows": rows},
        {"overrides": VERL_FUNCTION, "rows": [right]},
        {"overrides": [*VERL_MANAGER, nowhere, soon], "rows": [right]},
        {"overrides": [*VERL_FUNCTION, nowhere, soon], "rows": [right]},
    ]
    program = PROGRAMS / "in_verl.py"
    told = await run(sys.executable, program, given=asked, GENPRM_URL=service.url, PYTHONPATH=trainers)
    manager, function, *unreachable = json.loads(told.splitlines()[-1])

    name, first, flawed, second, padded, missing = manager
    assert name == "ProcessRewardManager"
    said = {"score": pytest.approx(0.95), "acc": 1.0, "process": 0.9, "missing": 0.0}
    expected = {"reward_score": pytest.approx(0.95), "reward_extra_info": said}
    assert first == second == padded == expected
    assert flawed["reward_score"] == 0.5
    said = {"score": 0.0, "acc": 1.0, "process": -1.0, "missing": 1.0}
    assert missing == {"reward_score": 0.0, "reward_extra_info": said}
    assert function == ["NaiveRewardManager", expected]
    for _, one in unreachable:
        assert (one["reward_score"], one["reward_extra_info"]["missing"]) == (0.0, 1.0)


async def test_openrlhf(service: Live, trainers: str) -> None:
    texts = [RIGHT, FLAWED, UNCLEAR]
    asked = {"queries": [f"{PROMPT}{text}<|im_end|>" for text in texts], "prompts": [PROMPT] * 3, "labels": ["2"] * 3}
    found = await _in_trainers("openrlhf", asked, service, trainers)
    # A file is called for one query at a time, and so is an address while there are rollouts.
    file = {name: [row for one in found["file"] for row in one[name]] for name in ("rewards", "scores")}
    [address] = found["address"]
    for given in (file, address):
        assert given["rewards"] == given["scores"] == pytest.approx([0.95, 0.5, 0.0])
    assert address["extra_logs"]["missing"] == [0.0, 0.0, 1.0]


async def test_areal(service: Live, trainers: str) -> None:
    # GSM8K as AReaL loads it: messages, and the worked answer.
    row = {"messages": MESSAGES, "answer": "One and one is <<1+1=2>>2.\n#### 2"}
    asked = {"prompt": PROMPT, "texts": [f"{RIGHT}<|im_end|>", FLAWED, WRONG, UNCLEAR], "row": row}
    assert await _in_trainers("areal", asked, service, trainers) == pytest.approx([0.95, 0.5, 0.0, 0.0])


async def test_skyrl(service: Live, trainers: str) -> None:
    extras = {"reward_spec": {"ground_truth": "2"}, "prompt": MESSAGES, "max_turns": 1}
    found = await _in_trainers("skyrl", {"texts": [RIGHT, FLAWED, UNCLEAR], "extras": extras}, service, trainers)
    assert [one["reward"] for one in found] == pytest.approx([0.95, 0.5, 0.0])
    assert found[1]["metadata"] == {"genprm_scores": [0.0, 0.9]}
    assert all(one["done"] and one["prompt"] == MESSAGES for one in found)


async def test_nemo_gym(service: Live, trainers: str) -> None:
    def rollout(text: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": content}
        response = {"id": "r", "object": "response", "created_at": 0.0, "model": "m", "output": [message]}
        response |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        return {"responses_create_params": {"input": MESSAGES}, "response": response, "expected_answer": "2"}

    folder = EXAMPLES / "nemo_gym" / "resources_servers" / "genprm_process"
    asked = {"folder": str(folder), "config": {"url": service.url}, "rollouts": list(map(rollout, [RIGHT, UNCLEAR]))}
    found = await _in_trainers("nemo_gym", asked, service, trainers)
    assert (found["seeded"], found["totals"]) == (200, 200)
    right, unclear = found["verified"]
    assert (right["reward"], right["mask_sample"], right["step_scores"]) == (pytest.approx(0.95), False, [0.9, 0.9])
    assert "timeout_s" not in right
    assert (unclear["reward"], unclear["mask_sample"]) == (0.0, True)
    assert "no chain gave a verdict" in unclear["failure_reason"]
    asked["config"] = {"url": "http://127.0.0.1:1", "timeout_s": 0.5}
    alone = (await _in_trainers("nemo_gym", asked, service, trainers))["verified"][0]
    assert (alone["reward"], alone["mask_sample"]) == (0.0, True)
    assert "refused" in alone["failure_reason"]


async def _in_trainers(which: str, asked: dict[str, Any], service: Live, trainers: str) -> Any:
    program = PROGRAMS / "in_trainers.py"
    told = await run(sys.executable, program, which, given=asked, GENPRM_URL=service.url, PYTHONPATH=trainers)
    return json.loads(told.splitlines()[-1])


def _options(script: str) -> list[str]:
    """The arguments of the last command of a script, without values."""
    text = (EXAMPLES / script).read_text().replace("\\\n", " ")
    [command] = [line for line in text.splitlines() if line.startswith("python3 -m ")]
    return [word for word in shlex.split(command)[3:] if word.startswith("--") or "=" in word]


def test_verl_has_the_options_of_the_example(trainers: str) -> None:
    code = Path(environments.trainers().split(":")[0])
    config = yaml.safe_load((code / "verl/trainer/config/_generated_ppo_trainer.yaml").read_text())
    options = [option.partition("=")[0] for option in _options("verl_grpo.sh")]
    assert len(options) > 15
    for option in options:
        names, here = option.removeprefix("+").split("."), config
        # A plus adds a key, which must not be there yet.
        for name in names[:-1] if not option.startswith("+") else names[:-2]:
            here = here[name]
        assert (names[-1] in here) != option.startswith("+"), option


def test_openrlhf_has_the_options_of_the_example(trainers: str) -> None:
    code = (Path(environments.trainers().split(":")[0]) / "openrlhf/cli/train_ppo_ray.py").read_text()
    options = _options("openrlhf_grpo.sh")
    assert len(options) > 15
    assert not [option for option in options if f'"{option}"' not in code]


def test_skyrl_has_the_options_of_the_example(trainers: str) -> None:
    code = Path(environments.trainers().split(":")[0]) / "skyrl" / "train"
    assert 'startswith("trainer.override_entrypoint=")' in (code / "entrypoints" / "main_base.py").read_text()
    config = (code / "config" / "config.py").read_text()
    assert re.search(r"^    env_class: str", config, re.M)
    assert re.search(r"^    train_data: List", config, re.M)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_the_shell_examples_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


async def test_the_example_of_nemo_gym(service: Live) -> None:
    told = json.loads(await run("bash", EXAMPLES / "nemo_gym.sh", GENPRM_URL=service.url))
    assert (told["expected_answer"], told["mask_sample"]) == ("72", False)
    assert len(told["step_scores"]) == 2


async def test_the_example_of_skyrl(service: Live) -> None:
    told = await run(sys.executable, EXAMPLES / "skyrl_rewards.py", GENPRM_URL=service.url, PYTHONPATH=str(ROOT))
    assert told.splitlines()[-1].startswith("sum 0.500 over ")
