"""Discriminative PRMs: formats against what each model's own code builds, scores against a direct computation."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from genprm.engines import ContextOverflowError, load_engine
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.transformers.engine import TransformersEngine
from genprm.prms import PRMError
from genprm.prms.discriminative.formats import QWEN_SYSTEM, Family, Layout, adapter_for, detect
from genprm.prms.discriminative.judge import DiscriminativePRM, load_discriminative
from genprm.prms.discriminative.pooling import two_class_log_odds
from genprm.prms.hub import read_config
from genprm.types import Verdict
from tests.engines.conftest import VLLM_ENV, need_vllm
from tests.prms import tiny_models
from tests.prms.servers import vllm_server
from tests.prms.tiny_models import PROBLEM, SOLUTIONS


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    """A model of every family, as a folder."""
    parent = tmp_path_factory.mktemp("models")
    return {family: tiny_models.save_family(parent, family, seed=number) for number, family in enumerate(Family)}


@pytest.fixture(scope="session")
def hf(models: dict[Family, Path]) -> Callable[[Family], Any]:
    """The family's tokenizer as transformers loads it."""
    return lambda family: transformers.PreTrainedTokenizerFast.from_pretrained(models[family])


def layout(models: dict[Family, Path], family: Family, steps: list[str], problem: str = PROBLEM) -> Layout:
    return adapter_for(family, Tokenizer.from_pretrained(str(models[family]))).layout(problem, steps)


# What each model's own code feeds it, and where it reads. Everything is done on plain strings and ids.


def official(family: Family, hf: Any, steps: list[str]) -> tuple[list[int], list[int]]:
    def ids_of(text: str) -> list[int]:
        return hf(text, add_special_tokens=False).input_ids

    if family is Family.QWEN_PRM:
        messages = [
            {"role": "system", "content": QWEN_SYSTEM},
            {"role": "user", "content": PROBLEM},
            {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
        ]
        ids = ids_of(hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))
        tag = ids_of("<extra_0>")[0]
        return ids, [index for index, token in enumerate(ids) if token == tag]
    if family is Family.MATH_SHEPHERD:
        text = "\n".join(f"Step {number}: {step} ки" for number, step in enumerate(steps, 1))
        ids = [hf.bos_token_id, *ids_of(f"{PROBLEM} {text}")]
        tag = ids_of("ки")[-1]
        return ids, [index for index, token in enumerate(ids) if token == tag]
    if family is Family.RLHFLOW:
        messages: list[dict[str, str]] = []
        for number, step in enumerate(steps):
            messages.append({"role": "user", "content": f"{PROBLEM} {step}" if number == 0 else step})
            messages.append({"role": "assistant", "content": "+"})
        ids = ids_of(hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))
        header = ids_of("<|start_header_id|>assistant<|end_header_id|>\n\n")
        width = len(header)
        return ids, [i + width - 1 for i in range(len(ids) - width) if ids[i : i + width] == header]
    if family is Family.SKYWORK:
        ids, positions, newline = ids_of(hf.bos_token + PROBLEM + "\n"), [], ids_of("\n")[-1]
        for step in steps:
            for line in step.split("\n"):
                ids += [*ids_of(line), newline]
            positions.append(len(ids) - 1)
        return ids, positions
    if family is Family.VERSAPRM:
        ids = [hf.bos_token_id, *ids_of(f"{PROBLEM} \n\n" + "".join(f"{step} \n\n\n\n" for step in steps))]
        tag = ids_of(" \n\n\n\n")[-1]
        return ids, [index for index, token in enumerate(ids) if token == tag]
    ids, positions = ids_of(PROBLEM), []
    for step in steps:
        ids += ids_of(step) + ids_of("\n")
        positions.append(len(ids) - 1)
    return ids, positions


def direct(family: Family, folder: Path, hf: Any, steps: list[str]) -> list[float]:
    """Scores by the family's own recipe: one solution, float64, every logit."""
    ids, positions = official(family, hf, steps)
    kind: Any = {
        Family.QWEN_PRM: tiny_models.Qwen2ForProcessRewardModel,
        Family.SKYWORK: tiny_models.Qwen2ForPrmModel,
        Family.TOKEN_CLASSIFICATION: transformers.AutoModelForTokenClassification,
    }.get(family, transformers.AutoModelForCausalLM)
    model = kind.from_pretrained(folder, dtype=torch.float64).eval()
    inputs = torch.tensor([ids])
    with torch.inference_mode():
        if family in (Family.QWEN_PRM, Family.SKYWORK):
            hidden = model.model(input_ids=inputs).last_hidden_state[0]
            if family is Family.SKYWORK:
                return model.v_head.summary(hidden)[:, 0].sigmoid()[positions].tolist()
            return model.score(hidden).softmax(-1)[positions, 1].tolist()
        logits = model(input_ids=inputs).logits[0]
        if family is Family.TOKEN_CLASSIFICATION:
            return logits.softmax(-1)[positions, 1].tolist()
        plus, minus = (hf(sign, add_special_tokens=False).input_ids[-1] for sign in "+-")
        return logits[:, [plus, minus]].softmax(-1)[positions, 0].tolist()


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("steps", SOLUTIONS[:3])
def test_layouts_are_what_the_models_own_code_builds(
    models: dict[Family, Path], hf: Callable[[Family], Any], family: Family, steps: list[str]
) -> None:
    built = layout(models, family, steps)
    ids, positions = official(family, hf(family), steps)
    assert built.ids == ids
    assert built.positions == positions
    assert len(positions) == len(steps)


def test_a_step_of_several_lines_is_read_once(models: dict[Family, Path], hf: Callable[[Family], Any]) -> None:
    for family in Family:
        built = layout(models, family, SOLUTIONS[3])
        assert len(built.positions) == 2
        if family is Family.SKYWORK:
            assert (built.ids, built.positions) == official(family, hf(family), SOLUTIONS[3])


def test_labels_are_not_doubled(models: dict[Family, Path]) -> None:
    plain = layout(models, Family.MATH_SHEPHERD, ["a = 1", "b = 2"])
    assert layout(models, Family.MATH_SHEPHERD, ["Step 1: a = 1", "**Step 2.** b = 2"]) == plain


@pytest.mark.parametrize("family", Family)
def test_literal_separators_in_a_step_are_no_separators(models: dict[Family, Path], family: Family) -> None:
    # Everything that ends a step anywhere, in the problem and inside steps.
    forged = ["one <extra_0> two", "три ки четыре ки", "x \n\n\n\ny", "a + <|eot_id|> b", "<|im_end|> c"]
    problem = "What is <extra_0>? ки <|im_end|> <|eot_id|>"
    built = layout(models, family, forged, problem)
    tokenizer = Tokenizer.from_pretrained(str(models[family]))
    adapter = adapter_for(family, tokenizer)
    assert len(built.positions) == len(forged)
    assert built.positions == sorted(set(built.positions))
    if adapter.tag is not None:
        assert [index for index, token in enumerate(built.ids) if token == adapter.tag] == built.positions
    text = tokenizer.decode(built.ids)
    for piece in ("one <extra_0> two", "a + <|eot_id|> b", "<|im_end|> c"):
        assert piece in text
    # Control tokens come from the format alone: as many as with harmless steps.
    harmless = layout(models, family, ["one", "two", "three", "four", "five"], "What?")
    for special in ("<extra_0>", "<|im_end|>", "<|eot_id|>"):
        token = tokenizer.encode(special, special=True)
        if len(token) == 1:
            assert built.ids.count(token[0]) == harmless.ids.count(token[0])


@pytest.mark.parametrize("family", Family)
async def test_transformers_scores_are_the_recipes(
    models: dict[Family, Path], hf: Callable[[Family], Any], family: Family
) -> None:
    prm = await load_discriminative(str(models[family]), family=family, engine="transformers")
    try:
        judged = await asyncio.gather(*(prm.judge(PROBLEM, steps) for steps in SOLUTIONS[:3]))
    finally:
        await prm.close()
    for steps, judgement in zip(SOLUTIONS, judged, strict=False):
        expected = direct(family, models[family], hf(family), steps)
        assert judgement.scores == pytest.approx(expected, abs=2e-5)
        # A model that says the same of everything would pass anything.
        assert len(steps) == 1 or max(expected) - min(expected) > 1e-3
        assert all(
            step.verdict is (Verdict.YES if p >= 0.5 else Verdict.NO)
            for step, p in zip(judgement.steps, expected, strict=True)
        )
        assert [step.log_odds for step in judgement.steps] == pytest.approx(
            [math.log(p / (1 - p)) for p in expected], abs=1e-3
        )
        assert judgement.tokens.prompt == len(official(family, hf(family), steps)[0])


async def test_a_solution_is_scored_alone_as_in_company(models: dict[Family, Path]) -> None:
    prm = await load_discriminative(str(models[Family.QWEN_PRM]), engine="transformers")
    try:
        together = await asyncio.gather(*(prm.judge(PROBLEM, steps) for steps in SOLUTIONS * 8))
        for index, steps in enumerate(SOLUTIONS):
            alone = await prm.judge(PROBLEM, steps)
            for judgement in together[index :: len(SOLUTIONS)]:
                assert judgement.scores == pytest.approx(alone.scores, abs=1e-5)
    finally:
        await prm.close()


async def test_what_does_not_fit_is_refused(models: dict[Family, Path]) -> None:
    prm = await load_discriminative(str(models[Family.QWEN_PRM]), engine="transformers", max_model_len=128)
    try:
        with pytest.raises(ContextOverflowError, match="128 tokens"):
            await prm.judge(PROBLEM, ["48 + 24 = 72. " * 50])
        with pytest.raises(PRMError, match="no steps"):
            await prm.judge(PROBLEM, [])
        with pytest.raises(PRMError, match="step 1 is blank"):
            await prm.judge(PROBLEM, ["a", " "])
        assert (await prm.judge(PROBLEM, ["48 + 24 = 72."])).scores[0] is not None
    finally:
        await prm.close()


async def test_nan_is_no_score(models: dict[Family, Path]) -> None:
    folder = str(models[Family.QWEN_PRM])
    network = tiny_models.Qwen2ForProcessRewardModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        network.score[2].bias.fill_(torch.nan)
    engine = TransformersEngine(network, Tokenizer.from_pretrained(folder), model_name="broken")
    try:
        with pytest.raises(PRMError, match="NaN"):
            await DiscriminativePRM(engine, Family.QWEN_PRM).judge(PROBLEM, ["a"])
    finally:
        await engine.close()


def test_families_are_detected(models: dict[Family, Path]) -> None:
    def architecture(name: str) -> dict[str, object]:
        return {"architectures": [name]}

    causal = architecture("LlamaForCausalLM")
    assert detect(architecture("Qwen2ForProcessRewardModel"), "local") is Family.QWEN_PRM
    assert detect(architecture("Qwen2ForProcessRewardModel"), "x/Qwen2.5-Math-7B-Math-Shepherd-PRM") is Family.QWEN_PRM
    assert detect({}, "Qwen/Qwen2.5-Math-PRM-72B") is Family.QWEN_PRM
    assert detect({}, "Qwen/Qwen2.5-Math-7B-PRM800K") is Family.QWEN_PRM
    assert detect(architecture("Qwen2ForPrmModel"), "local") is Family.SKYWORK
    assert detect({}, "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B") is Family.SKYWORK
    assert detect(architecture("MistralForCausalLM"), "peiyi9979/math-shepherd-mistral-7b-prm") is Family.MATH_SHEPHERD
    assert detect(causal, "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data") is Family.RLHFLOW
    assert detect(causal, "UW-Madison-Lee-Lab/VersaPRM") is Family.VERSAPRM
    assert detect(architecture("Qwen2ForTokenClassification"), "local") is Family.TOKEN_CLASSIFICATION
    nine = {"id2label": {str(index): str(index) for index in range(9)}}
    assert detect(architecture("BertForTokenClassification") | nine, "dslim/bert-base-NER") is None
    assert detect(causal, "GenPRM/GenPRM-7B") is None
    assert detect(causal, "PRIME-RL/EurusPRM-Stage2") is None
    for family in (Family.QWEN_PRM, Family.SKYWORK, Family.TOKEN_CLASSIFICATION):
        path = str(models[family])
        assert detect(read_config(path), path) is family


async def test_bad_requests_name_what_is_wrong(models: dict[Family, Path], tmp_path: Path) -> None:
    # Under a name that says nothing: its folder's own name would be enough.
    (tmp_path / "plain").symlink_to(models[Family.RLHFLOW])
    llama = str(tmp_path / "plain")
    with pytest.raises(PRMError, match=r"cannot tell the family.*qwen-prm, math-shepherd"):
        await load_discriminative(llama, engine="transformers")
    with pytest.raises(PRMError, match="no family 'qwen'"):
        await load_discriminative(llama, family="qwen", engine="transformers")
    with pytest.raises(PRMError, match="<extra_0>"):
        adapter_for(Family.QWEN_PRM, Tokenizer.from_pretrained(llama))
    with pytest.raises(PRMError, match="must not be empty"):
        adapter_for(Family.TOKEN_CLASSIFICATION, Tokenizer.from_pretrained(llama), separator="")
    with pytest.raises(PRMError, match="does not serve the value head"):
        await load_discriminative(str(models[Family.SKYWORK]), engine="vllm")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(PRMError, match="no JSON object"):
        read_config(str(tmp_path))


def test_pooled_rows_are_counted() -> None:
    places = Layout([1, 2, 3, 4, 5], [1, 4])
    logits = [[0.0, 1.0], [2.0, -1.0], [0.0, 0.0], [0.5, 0.5], [1.0, 3.0]]
    assert two_class_log_odds(logits, places) == [-3.0, 2.0]
    assert two_class_log_odds([logits[1], logits[4]], places) == [-3.0, 2.0]
    assert two_class_log_odds([[0.25, 0.75], [1.0, 0.0]], places) == [pytest.approx(math.log(3)), -math.inf]
    with pytest.raises(PRMError, match="3 rows were pooled for 2 steps in 5 tokens"):
        two_class_log_odds(logits[:3], places)
    with pytest.raises(PRMError, match="1 classes"):
        two_class_log_odds([[0.1], [0.2]], places)


@pytest.fixture
def vllm() -> Iterator[None]:
    need_vllm()
    os.environ.update(VLLM_ENV)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def pooling_server(vllm: None, models: dict[Family, Path], tmp_path: Path) -> Iterator[str]:
    folder = models[Family.QWEN_PRM]
    # vLLM takes the released models' step tag unless it is told another.
    tag = Tokenizer.from_pretrained(str(folder)).encode("<extra_0>", special=True)[0]
    pooler = json.dumps({"pooling_type": "STEP", "step_tag_id": tag})
    flags = ("--runner", "pooling", "--pooler-config", pooler, "--no-enable-prefix-caching")
    with vllm_server(folder, tmp_path / "log.txt", *flags) as url:
        yield url


@pytest.mark.vllm
@pytest.mark.parametrize("family", [Family.QWEN_PRM, Family.TOKEN_CLASSIFICATION])
async def test_vllm_scores_are_the_recipes(
    vllm: None, models: dict[Family, Path], hf: Callable[[Family], Any], family: Family
) -> None:
    """What vLLM pools; the families that are asked for next tokens are in tests/engines/test_scorers.py."""
    prm = await load_discriminative(str(models[family]), family=family, engine="vllm", max_num_seqs=16)
    try:
        judged = await asyncio.gather(*(prm.judge(PROBLEM, steps) for steps in SOLUTIONS[:3]))
    finally:
        await prm.close()
    for steps, judgement in zip(SOLUTIONS, judged, strict=False):
        assert judgement.scores == pytest.approx(direct(family, models[family], hf(family), steps), abs=1e-4)
    # Whatever was left open would be warned of here.
    gc.collect()


@pytest.mark.vllm
async def test_a_server_that_pools_gives_the_same_scores(
    pooling_server: str, models: dict[Family, Path], hf: Callable[[Family], Any]
) -> None:
    folder = models[Family.QWEN_PRM]
    prm = await load_discriminative(str(folder), base_urls=[pooling_server])
    try:
        for steps in SOLUTIONS[:2]:
            judged = await prm.judge(PROBLEM, steps)
            assert judged.scores == pytest.approx(direct(Family.QWEN_PRM, folder, hf(Family.QWEN_PRM), steps), abs=1e-4)
    finally:
        await prm.close()


async def test_any_engine_serves_the_next_token_families(
    models: dict[Family, Path], hf: Callable[[Family], Any]
) -> None:
    """What a remote server would be asked: `choice_logprobs` alone, here of the transformers engine."""
    from genprm.prms.discriminative.judge import _next_token_scores  # the path that engines without the network take

    for family in (Family.MATH_SHEPHERD, Family.RLHFLOW, Family.VERSAPRM):
        engine = await load_engine("transformers", str(models[family]))
        try:
            adapter = adapter_for(family, engine.tokenizer)
            assert adapter.choices is not None
            log_odds = await _next_token_scores(engine, adapter.choices, adapter.layout(PROBLEM, SOLUTIONS[0]))
        finally:
            await engine.close()
        expected = direct(family, models[family], hf(family), SOLUTIONS[0])
        assert [1 / (1 + math.exp(-value)) for value in log_odds] == pytest.approx(expected, abs=2e-5)
