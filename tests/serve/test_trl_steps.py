"""Step credit in TRL: GRPO itself where all steps score alike, and otherwise gradient on the tokens of a step alone."""

from __future__ import annotations

import asyncio
import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import genprm
from genprm.chat_text import solution_of
from genprm.client import Client, Score
from genprm.data.steps import split_steps
from genprm.data.word_problems import make_problems
from genprm.grading.answers import boxed_answer
from genprm.integrations.trl import EMPTY, process_scores
from genprm.prms import load_prm
from genprm.step_tokens import step_spans, token_ends
from tests.serve.shared import live

pytest.importorskip("trl")
POLICY = Path(genprm.__file__).parent / "nano_policy"
pytestmark = pytest.mark.slow  # PyTorch and TRL are imported, and a policy is trained


@pytest.fixture(scope="module", autouse=True)
def trl_imported() -> None:
    """What TRL imports (vLLM, whose version it does not know yet) warns of this and that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("trl.trainer.grpo_trainer")


class LocalJudge:
    """Scores steps by a rule, and knows the answers."""

    def __init__(self, rule: Any, *, all_right: bool = False) -> None:
        self.rule = rule
        self.all_right = all_right
        self.seen: list[tuple[str, Score]] = []

    async def __call__(self, prompts: Any, completions: Any, answer: Any, **_: Any) -> list[Score | None]:
        found: list[Score | None] = []
        for number, (completion, truth) in enumerate(zip(completions, answer, strict=True)):
            text = solution_of(completion)
            steps = split_steps(text)
            if not steps:
                found.append(EMPTY)
                continue
            spans = [[span.start, span.end] for span in step_spans(text, steps)]
            scores = [self.rule(number, index) for index in range(len(steps))]
            right = self.all_right or boxed_answer(text) == truth
            found.append(Score(scores, spans, -1, None, right, None, None, True, None))
            self.seen.append((text, found[-1]))
        return found


def trainer_of(
    kind: str, folder: Path, rule: Any = None, *, all_right: bool = False, judge: Any = None, **more: Any
) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from genprm.integrations.trl_steps import StepGRPOTrainer

    rows = [
        {"prompt": [{"role": "user", "content": one.text}], "answer": str(one.answer)}
        for one in make_problems(8, seed=31_000, steps=(2,))
    ]
    config = GRPOConfig(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=96,
        learning_rate=1e-3,
        temperature=1.0,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        seed=3,
        disable_tqdm=True,
        **more,
    )
    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    judge = judge or LocalJudge(rule or (lambda *_: 0.9), all_right=all_right)
    options = {"model": model, "args": config, "train_dataset": Dataset.from_list(rows)}
    if kind == "step":
        trainer = StepGRPOTrainer(judge=judge, **options)
    else:

        async def outcome(prompts: Any, completions: Any, **columns: Any) -> list[float]:
            return [float(bool(one and one.correct)) for one in await judge(prompts, completions, **columns)]

        trainer = GRPOTrainer(reward_funcs=outcome, **options)
    trainer.judge_of_test = judge
    return trainer


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_it_is_grpo_when_all_steps_score_alike(tmp_path: Path) -> None:
    from transformers import set_seed

    plain, step = trainer_of("plain", tmp_path), trainer_of("step", tmp_path)
    before = weights(plain).clone()
    for trainer in (plain, step):
        set_seed(3)
        trainer.train()
    assert not torch.equal(weights(plain), before)
    assert torch.equal(weights(plain), weights(step))
    other = trainer_of("step", tmp_path, lambda number, _: 0.1 + 0.8 * (number % 2))
    set_seed(3)
    other.train()
    assert not torch.equal(weights(plain), weights(other))


@pytest.mark.parametrize("loss_type", ["dapo", "dr_grpo", "cispo"])
def test_only_the_tokens_of_a_blamed_step_have_gradient(tmp_path: Path, loss_type: str) -> None:
    # All answers count as right, so that the outcome gives nothing; the first step of every fourth solution is bad.
    trainer = trainer_of(
        "step",
        tmp_path,
        lambda number, index: 0.2 if number % 4 == 0 and index == 0 else 0.8,
        all_right=True,
        loss_type=loss_type,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._generate_and_score_completions(batch)
    advantages, ids = inputs["advantages"], inputs["completion_ids"]
    assert advantages.shape == ids.shape
    logps: list[torch.Tensor] = []
    compute = trainer._get_per_token_logps_and_entropies

    def keep(*arguments: Any, **options: Any) -> Any:
        found = compute(*arguments, **options)
        found[0].retain_grad()
        logps.append(found[0])
        return found

    trainer._get_per_token_logps_and_entropies = keep
    trainer.compute_loss(trainer.model, inputs).backward()
    assert logps[0].grad is not None
    size = logps[0].grad.abs()
    mask = inputs["completion_mask"].bool()
    judge = trainer.judge_of_test
    decode = trainer.processing_class.decode
    for row, (text, score) in enumerate(judge.seen[-len(ids) :]):
        tokens = ids[row][mask[row]].tolist()
        ends = token_ends(lambda one: decode(one, skip_special_tokens=True), tokens)
        first = score.spans[0][1] + decode(tokens, skip_special_tokens=True).find(text)
        inside = torch.tensor([end <= first for end in ends])
        touched = size[row][: len(tokens)] > 0
        blamed = row % 4 == 0
        if blamed:
            # White space between two steps belongs to the step before it.
            assert bool(touched[inside].all())
            assert not bool(touched[~inside][3:].any())
            assert bool((advantages[row][: len(tokens)][inside] < 0).all())
        else:
            assert bool((advantages[row][: len(tokens)] > 0).all())
            assert bool(touched.all())
        assert not bool((size[row][len(tokens) :] > 0).any())


async def test_two_steps_of_training_with_a_live_service(tmp_path: Path) -> None:
    prm = await load_prm("nano", mode="analyze")
    try:
        async with live(prm) as one:
            judge = process_scores(Client(one.url, timeout_s=300, raise_errors=True))
            trainer = trainer_of("step", tmp_path, judge=judge, logging_steps=1)
            before = weights(trainer).clone()
            await asyncio.to_thread(trainer.train)
            judged = await one.metric('genprm_solutions_total{outcome="judged"}')
    finally:
        await prm.close()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert [entry["genprm/missing"] for entry in logged] == [0.0, 0.0]
    assert [entry["reward"] for entry in logged] == [entry["rewards/genprm_outcome/mean"] for entry in logged]
    assert 2 < judged <= 32  # equal solutions under way at once are judged once
    after = weights(trainer)
    assert bool(torch.isfinite(after).all())
    assert not torch.equal(before, after)


def test_a_data_set_without_answers_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of("step", tmp_path)

    async def unknown(prompts: Sequence[Any], **_: Any) -> list[Score | None]:
        return [Score([0.5], [[0, 1]], -1, None, None, None, None, True, None)] * len(prompts)

    trainer._judge = unknown
    with pytest.raises(ValueError, match="no answer could be compared"):
        trainer.train()
