"""`train_implicit` on a tiny model: both losses against float64, rows of every form, the cache, and the folder."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from genprm.engines.tokenizer import Tokenizer
from genprm.prms import load_prm
from genprm.prms.implicit.judge import ImplicitPRM
from genprm.prms.implicit.logratio import ChatSpans
from genprm.train.config import ImplicitConfig
from genprm.train.implicit_training import ask_reference, collate, outcome_loss, prepare, profile_of, train_implicit
from genprm.train.response_rows import pairs_of, read_responses
from genprm.train.rows import SourceRow, TrainError
from genprm.train.running import Stopped
from tests.engines.conftest import VLLM_ENV, need_vllm
from tests.prms import tiny_models
from tests.train import shared
from tests.train.shared import losses, write

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]
BETA = 0.5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model to start from, and another one as its reference."""
    made: list[Path] = []
    for number in range(2):
        folder = tmp_path_factory.mktemp("model") / f"qwen2-{number}"
        folder.mkdir()
        size = tiny_models.save_qwen_tokenizer(folder)
        made.append(tiny_models.save_model(folder, "qwen2", size, seed=number, initializer_range=0.15))
    return made[0], made[1]


def solution(index: int) -> dict[str, Any]:
    """Four solutions a problem."""
    return shared.solution(index, steps=3, problem=index // 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", [solution(k) for k in range(8)])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(data: Path, models: tuple[Path, Path], cache: Path) -> Any:
    def made(**changes: Any) -> ImplicitConfig:
        chosen = {"learning_rate": 1e-3, "batch_size": 4, "device_batch_size": 2, "log_steps": 1, "beta": BETA}
        base = {"data": str(data), "model": str(models[0]), "reference": str(models[1]), "reference_cache": str(cache)}
        return ImplicitConfig(**{**base, **chosen, "dtype": "float32", **changes})

    return made


def rows_of(value: dict[str, Any]) -> list[tuple[str, list[str], bool, int | None]]:
    return [(problem, list(steps), correct, first) for problem, steps, correct, first in read_responses(row_of(value))]


def row_of(value: dict[str, Any]) -> SourceRow:
    return SourceRow("rows.jsonl", 1, value)


def test_rows_of_every_form_are_read() -> None:
    steps = ["Step 1: 1 + 1 = 2", "Step 2: 2 + 2 = 4"]
    text = "\n\n".join(steps)
    plain = {"problem": "p", "steps": steps}
    assert rows_of({**plain, "final_answer_correct": False, "label": 1}) == [("p", steps, False, 1)]
    # A right answer after a wrong step is a right outcome: an implicit PRM learns outcomes.
    assert rows_of({**plain, "final_answer_correct": True, "label": 1}) == [("p", steps, True, 1)]
    assert rows_of({**plain, "correct": 1}) == [("p", steps, True, None)]
    assert rows_of({**plain, "label": -1}) == [("p", steps, True, -1)]
    assert rows_of({**plain, "label": False}) == [("p", steps, False, None)]
    assert rows_of({"problem": "p", "solution": text, "correct": True}) == [("p", steps, True, None)]
    many = {"prompt": "p", "completions": [text, "no"], "correctness": [True, False]}
    assert rows_of(many) == [("p", steps, True, None), ("p", ["no"], False, None)]
    assert rows_of({"prompt": "p", "completion": text, "label": False}) == [("p", steps, False, None)]
    turns: dict[str, Any] = {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": text}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    assert rows_of(turns) == [("p", steps, True, None), ("p", ["no"], False, None)]


async def reference_sums(config: ImplicitConfig) -> tuple[list[Any], list[list[float]]]:
    write_down = ChatSpans(Tokenizer.from_pretrained(config.model))
    found, _ = await asyncio.to_thread(prepare, config, write_down, 500)
    responses = [one for row in found.made for one in row]
    (scored,) = await ask_reference(config, responses)
    return scored, [row.reference for row in scored]


def exact_ratios(config: ImplicitConfig, model: Any, scored: list[Any]) -> list[torch.Tensor]:
    """Log-ratio of each response in float64, without padding."""
    fixed = AutoModelForCausalLM.from_pretrained(config.reference, dtype=torch.float64)
    found: list[torch.Tensor] = []
    for row in scored:
        ids, start = torch.tensor(row.response.spans.ids), row.response.spans.start
        own, base = (one(input_ids=ids[None]).logits[0].log_softmax(-1) for one in (model, fixed))
        at = torch.arange(start, len(ids))
        found.append((own[at - 1, ids[at]] - base[at - 1, ids[at]].detach()).sum())
    return found


async def test_cross_entropy_and_its_gradients_are_those_of_float64(config: Any) -> None:
    asked = config()
    scored, _ = await reference_sums(asked)
    exact = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float64)
    ratios = exact_ratios(asked, exact, scored)
    wanted = -sum(
        torch.nn.functional.logsigmoid(BETA * (ratio if row.response.correct else -ratio))
        for ratio, row in zip(ratios, scored, strict=True)
    )
    wanted.backward()
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    loss = outcome_loss(model, collate(scored), beta=BETA)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert wanted.item() / len(scored) > 0.1
    for (name, got), (_, known) in zip(model.named_parameters(), exact.named_parameters(), strict=True):
        furthest = (got.grad.double() - known.grad).abs().max().item()
        assert furthest <= 2e-3 * max(1e-3, known.grad.abs().max().item()), name


@pytest.mark.parametrize("objective", ["ce", "dpo"])
async def test_the_first_logged_loss_is_that_of_the_formula(config: Any, objective: str, tmp_path: Path) -> None:
    """The whole set in one step: in one batch, in batches of one, and with adapters that do nothing yet."""
    asked = config(objective=objective, max_steps=1)
    scored, _ = await reference_sums(asked)
    with torch.no_grad():
        exact = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float64)
        ratios = exact_ratios(asked, exact, scored)
    sure = torch.nn.functional.logsigmoid
    if objective == "ce":
        values = [-sure(BETA * (r if s.response.correct else -r)) for r, s in zip(ratios, scored, strict=True)]
    else:
        pairs = pairs_of([s.response for s in scored], None, 0)
        values = [-sure(BETA * (ratios[right] - ratios[wrong])) for right, wrong in pairs]
    assert len(values) == 8  # responses; or two problems with two right and two wrong ones each
    wanted = sum(values).item() / 8
    for number, how in enumerate(({"device_batch_size": 8}, {"device_batch_size": 1}, {"lora": True, "lora_rank": 4})):
        changed = asked.model_copy(update={"batch_size": 8, **how})
        await asyncio.to_thread(train_implicit, changed, tmp_path / str(number))
        assert losses(tmp_path / str(number))[0] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("objective", ["ce", "dpo"])
async def test_it_learns_and_its_folder_scores_with_the_references_cache(
    config: Any, objective: str, tmp_path: Path, data: Path, cache: Path
) -> None:
    asked = config(objective=objective, epochs=20, eval_data=data, eval_steps=100)
    trained = await asyncio.to_thread(train_implicit, asked, tmp_path)
    assert losses(tmp_path)[0] > 0.4
    assert losses(tmp_path)[-1] < 0.1
    assert trained.metrics["eval_ordered"] == 1.0
    if objective == "ce":
        assert trained.metrics["eval_accuracy"] == 1.0
    profile = json.loads((tmp_path / "genprm.json").read_text())["profile"]
    assert (profile["reference"], profile["beta"]) == (asked.reference, BETA)
    prm = await load_prm(str(tmp_path), reference_cache=str(cache))
    assert isinstance(prm, ImplicitPRM)
    try:
        judged = [await prm.judge(row["problem"], row["steps"]) for row in map(solution, range(8))]
        assert prm.reference is not None
        assert prm.reference.hits == 8  # the reference was not run again
    finally:
        await prm.close()
    outcomes = [judgement.steps[-1].log_odds or 0.0 for judgement in judged]
    # Its own weights are stored in bfloat16, so that sums of some dozens of tokens move.
    loss = sum(math.log1p(math.exp(q if k % 2 else -q)) for k, q in enumerate(outcomes)) / 8
    assert loss == pytest.approx(trained.metrics["eval_loss"], abs=0.1)
    assert min(outcomes[k] for k in (0, 2)) > max(outcomes[k] for k in (1, 3))


def test_a_run_that_was_stopped_goes_on_with_the_same_losses(config: Any, tmp_path: Path) -> None:
    """DPO, as cross-entropy goes through the trainer whose resume `test_discriminative` looks at."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    asked = config(objective="dpo", epochs=3)
    train_implicit(asked, whole)

    def stop(line: str) -> None:
        if line.startswith("step 2 of 6 "):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        train_implicit(asked, parts, say=stop)
    assert not (parts / "model.safetensors").exists()
    train_implicit(asked, parts)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)


@pytest.mark.vllm
async def test_vllm_scores_the_folder_as_transformers_does(
    config: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_vllm()
    for name, value in VLLM_ENV.items():
        monkeypatch.setenv(name, value)
    await asyncio.to_thread(train_implicit, config(max_steps=2), tmp_path)
    found: list[list[float]] = []
    for engine in ("transformers", "vllm"):
        prm = await load_prm(str(tmp_path), engine=engine, dtype="float32", reference="none")
        try:
            judged = [await prm.judge(row["problem"], row["steps"]) for row in map(solution, range(3))]
        finally:
            await prm.close()
        found.append([step.log_odds for one in judged for step in one.steps if step.log_odds is not None])
    assert len(found[0]) == 9
    assert found[1] == pytest.approx(found[0], abs=1e-2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"final_answer_correct": None, "label": None}, "row 2: nothing says whether the response is right"),
        ({"final_answer_correct": "yes"}, "row 2: `final_answer_correct` must be true or false, not 'yes'"),
        ({"correctness": [True], "completions": ["a", "b"]}, "row 2: .* lists of one length, not of 2 and 1"),
        ({"completion": " ", "label": True}, "row 2: `completion` must be a text that is not blank"),
        ({"steps": ["1 + 1 = 2 " * 300]}, r"row 2: [\d,]+ tokens exceed --max-length, 511"),
        ({"steps": None}, 'row 2: a row needs "steps"'),
    ],
)
def test_a_bad_row_ends_the_run_before_it_begins(
    change: dict[str, Any], says: str, config: Any, tmp_path: Path
) -> None:
    row = {name: one for name, one in {**solution(1), **change}.items() if one is not None}
    path = write(tmp_path / "bad.jsonl", [solution(0), {**row, "label": -1} if "steps" in change else row])
    with pytest.raises(TrainError, match=says):
        train_implicit(config(data=str(path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_bad_input_says_what_to_do(config: Any, models: tuple[Path, Path], tmp_path: Path) -> None:
    one_sided = write(tmp_path / "right.jsonl", [solution(0), solution(2)])
    with pytest.raises(TrainError, match="none has both a right and a wrong response"):
        train_implicit(config(data=str(one_sided), objective="dpo"), tmp_path / "out")
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in models[0].iterdir():
        if file.suffix != ".jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TrainError, match="has no chat template"):
        train_implicit(config(model=str(bare)), tmp_path / "out")
    with pytest.raises(TrainError, match=r"--max-length 9,000 exceeds the model's context of 512"):
        train_implicit(config(max_length=9000), tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_pairs_are_all_or_some_of_a_problem(config: Any) -> None:
    found, _ = await asyncio.to_thread(prepare, config(), ChatSpans(Tokenizer.from_pretrained(config().model)), 500)
    responses = [one for row in found.made for one in row]
    everything = pairs_of(responses, None, 0)
    assert len(everything) == 8
    assert all(responses[right].correct and not responses[wrong].correct for right, wrong in everything)
    some = pairs_of(responses, 1, 0)
    assert len(some) == 2
    assert set(some) < set(everything)
    assert some == pairs_of(responses, 1, 0)


def test_the_reference_of_an_implicit_model_keeps_its_revision() -> None:
    """By default it is the model to start from."""
    for config, reference, revision in (
        (ImplicitConfig(model="a/one", revision="r1"), "a/one", "r1"),
        (ImplicitConfig(model="a/one", revision="r1", reference="b/two"), "b/two", None),
        (ImplicitConfig(model="a/one", reference="b/two", reference_revision="r2"), "b/two", "r2"),
    ):
        found = profile_of(config)
        assert (found.reference, found.reference_revision) == (reference, revision)
