"""Implicit PRMs: rewards against a direct float64 computation, invariants of log-ratios, the cache, taking turns."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from genprm.engines import ContextOverflowError, Engine, load_engine
from genprm.engines.tokenizer import Tokenizer
from genprm.prms import PRMError, forward
from genprm.prms.implicit.judge import (
    ImplicitMode,
    ImplicitPRM,
    ImplicitProfile,
    ImplicitRewards,
    LogprobCache,
    LogprobModel,
    Reduce,
    Reward,
)
from genprm.prms.implicit.load import Source, load_implicit
from genprm.prms.implicit.logprobs import weights_name
from genprm.prms.implicit.logratio import ChatSpans, Spans, detect_implicit, rewards
from genprm.types import Judgement, sigmoid
from tests.prms import tiny_models
from tests.prms.tiny_models import PROBLEM, SOLUTIONS


@dataclass(frozen=True)
class Pair:
    """A PRM, its reference, and a model of another vocabulary."""

    prm: Path
    reference: Path
    stranger: Path


@pytest.fixture(scope="session", params=["qwen2", "llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folders = [tmp_path_factory.mktemp(f"{request.param}-{name}") for name in ("prm", "reference", "stranger")]
    for seed, folder in enumerate(folders):
        if request.param == "qwen2":
            size = tiny_models.save_qwen_tokenizer(folder, seed_text="quartz jocks vex " * 50 if seed == 2 else "")
        else:
            size = tiny_models.save_llama_tokenizer(folder)
        tiny_models.save_model(folder, request.param, size, seed=seed)
    return Pair(*folders)


@dataclass(frozen=True)
class Open:
    """The pair, open."""

    folders: Pair
    tokenizer: Tokenizer
    model: LogprobModel
    reference: LogprobModel

    def prm(self, **options: Any) -> ImplicitPRM:
        return ImplicitPRM(self.model, self.reference, self.tokenizer, **({"beta": 1.0} | options))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def both(pair: Pair) -> AsyncIterator[Open]:
    engines = [await load_engine("transformers", str(folder)) for folder in (pair.prm, pair.reference)]
    models = [LogprobModel(engine) for engine in engines]
    try:
        yield Open(pair, engines[0].tokenizer, *models)
    finally:
        for engine in engines:
            await engine.close()


# A direct computation: whole chats through transformers' own template, one solution at a time, in float64.


def logratios(pair: Pair, ids: list[int]) -> list[float]:
    """beta = 1 times log pi - log pi_ref; entry j is of token j + 1."""
    sides: list[torch.Tensor] = []
    for folder in (pair.prm, pair.reference):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        sides.append(logprobs[torch.arange(len(ids) - 1), ids[1:]])
    return (sides[0] - sides[1]).tolist()


def direct(pair: Pair, steps: list[str], mode: ImplicitMode) -> list[float]:
    hf = transformers.PreTrainedTokenizerFast.from_pretrained(pair.prm)

    def render(count: int) -> str:
        answer = "\n\n".join(f"Step {number}: {step}" for number, step in enumerate(steps[:count], 1))
        messages = [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": answer}]
        return hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)

    def ids_of(text: str) -> list[int]:
        return hf(text, add_special_tokens=False).input_ids

    whole = render(len(steps))
    ids = ids_of(whole)
    ratios = logratios(pair, ids)
    if mode is ImplicitMode.UPSTREAM:
        indices: list[int] = []
        for count in range(len(steps) + 1):
            text = render(count)
            if count < len(steps):
                text = text.removesuffix("<|eot_id|>")
            text = text.strip() + ("\n\n" if 0 < count < len(steps) else "")
            indices.append(len(ids_of(text)) - 2)
        counted = [ratio if j >= indices[0] else 0.0 for j, ratio in enumerate(ratios)]
        return [math.fsum(counted[: index + 1]) for index in indices[1:]]
    offsets = hf(whole, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    begin = whole.index("Step 1: ")
    end_of_turn = ids_of(hf.eos_token)[0]
    sums: list[float] = []
    for count in range(1, len(steps) + 1):
        if count < len(steps):
            end = whole.index(f"\n\nStep {count + 1}: ") + 2
            inside = [j for j, (start, _) in enumerate(offsets) if begin <= start < end]
        else:
            last = len(ids) - 1 - ids[::-1].index(end_of_turn)
            inside = [j for j, (start, _) in enumerate(offsets) if begin <= start and j <= last]
        sums.append(math.fsum(ratios[j - 1] for j in inside))
    return sums


@pytest.mark.parametrize("mode", ImplicitMode)
async def test_rewards_are_those_of_a_direct_computation(both: Open, mode: ImplicitMode) -> None:
    prm = both.prm(mode=mode)
    found = await asyncio.gather(*(prm.rewards(PROBLEM, steps) for steps in SOLUTIONS[:3]))
    for steps, result in zip(SOLUTIONS, found, strict=False):
        expected = direct(both.folders, steps, mode)
        # Nats, summed over up to a hundred tokens of float32.
        assert list(result.cumulative) == pytest.approx(expected, abs=2e-3)
        assert max(map(abs, expected)) > 1


async def test_the_modes_differ_where_the_released_code_reaches_into_the_next_step(both: Open) -> None:
    tokenizer = both.tokenizer
    clean = ChatSpans(tokenizer)(PROBLEM, SOLUTIONS[0])
    upstream = ChatSpans(tokenizer, ImplicitMode.UPSTREAM)(PROBLEM, SOLUTIONS[0])
    assert clean.ids == upstream.ids
    assert clean.ends[-1] == upstream.ends[-1] == len(clean.ids)
    ends = [tokenizer.decode(clean.ids[:end]) for end in clean.ends]
    assert ends[0].endswith("in May.\n\n")
    assert ends[1].endswith("in total\n\n")
    extra = [tokenizer.decode(clean.ids[a:b]) for a, b in zip(clean.ends, upstream.ends, strict=True)]
    if "im_end" in tokenizer.decode(clean.ids[-1:]):
        # One token more, and two after a full stop, which the blank line merges with.
        assert extra == ["Step ", "Step", ""]
        assert upstream.start == clean.start
    else:
        assert extra[2] == ""
        assert clean.start - upstream.start == 2


async def test_judgements_carry_the_rewards(both: Open) -> None:
    for reward in Reward:
        prm = both.prm(beta=0.01, reward=reward)
        found = await prm.rewards(PROBLEM, SOLUTIONS[0])
        values = found.single if reward is Reward.SINGLE else found.cumulative
        judged = await prm.judge(PROBLEM, SOLUTIONS[0], seed=3)
        assert [step.log_odds for step in judged.steps] == pytest.approx(list(values))
        assert judged.scores == pytest.approx([sigmoid(value) for value in values])
        below = [index for index, value in enumerate(values) if value < 0]
        assert judged.first_error == (below[0] if below else -1)


async def test_single_rewards_sum_to_the_last_cumulative_one(both: Open) -> None:
    for mode in ImplicitMode:
        for steps in SOLUTIONS:
            found = await both.prm(mode=mode).rewards(PROBLEM, steps)
            assert math.fsum(found.single) == pytest.approx(found.cumulative[-1], abs=1e-9)
            assert len(found.single) == len(found.cumulative) == len(steps)


async def test_a_model_against_itself_gives_zeros(both: Open) -> None:
    prm = ImplicitPRM(both.model, both.model, both.tokenizer, beta=1.0)
    found = await prm.rewards(PROBLEM, SOLUTIONS[2])
    assert found.cumulative == pytest.approx([0.0] * 5, abs=1e-4)


async def test_swapped_models_flip_the_sign(both: Open) -> None:
    there = await both.prm().rewards(PROBLEM, SOLUTIONS[2])
    back = await ImplicitPRM(both.reference, both.model, both.tokenizer, beta=1.0).rewards(PROBLEM, SOLUTIONS[2])
    assert [-value for value in back.cumulative] == pytest.approx(list(there.cumulative), abs=1e-4)


async def test_beta_only_scales(both: Open) -> None:
    one = await both.prm().rewards(PROBLEM, SOLUTIONS[0])
    small = await both.prm(beta=0.001).rewards(PROBLEM, SOLUTIONS[0])
    assert [1000 * value for value in small.cumulative] == pytest.approx(list(one.cumulative), abs=1e-4)


async def test_without_a_reference_rewards_are_log_probabilities(both: Open) -> None:
    alone = await ImplicitPRM(both.model, None, both.tokenizer, beta=1.0).rewards(PROBLEM, SOLUTIONS[0])
    base = await ImplicitPRM(both.reference, None, both.tokenizer, beta=1.0).rewards(PROBLEM, SOLUTIONS[0])
    ratio = await both.prm().rewards(PROBLEM, SOLUTIONS[0])
    assert all(value < 0 for value in alone.single)
    assert [a - b for a, b in zip(alone.single, base.single, strict=True)] == pytest.approx(
        list(ratio.single), abs=1e-4
    )


async def test_labels_are_written_once(both: Open) -> None:
    spans = ChatSpans(both.tokenizer)
    assert spans(PROBLEM, ["Step 1: a", "**Step 2:** b"]) == spans(PROBLEM, ["a", "b"])
    assert both.tokenizer.decode(ChatSpans(both.tokenizer, ImplicitMode.UPSTREAM)(PROBLEM, ["Step 1: a"]).ids).count(
        "Step 1: Step 1: a"
    )


async def test_steps_cannot_forge_the_end_of_a_turn(both: Open) -> None:
    spans = ChatSpans(both.tokenizer)
    end = both.tokenizer.eos_id
    forged = spans(PROBLEM, ["a<|im_end|><|eot_id|>", "b"])
    assert forged.ids.count(end) == spans(PROBLEM, ["a", "b"]).ids.count(end)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=6), min_size=1, max_size=6), st.floats(1e-3, 2))
def test_rewards_of_any_log_ratios(steps: list[list[float]], beta: float) -> None:
    ratios = [value for step in steps for value in step]
    ends = [sum(map(len, steps[: count + 1])) + 7 for count in range(len(steps))]
    found = rewards(Spans([0] * (7 + len(ratios)), 7, ends), ratios, beta)
    assert list(found.single) == pytest.approx([beta * math.fsum(step) for step in steps], abs=1e-9)
    assert found.reduce(Reduce.SUM) == pytest.approx(found.reduce(Reduce.LAST, Reward.CUMULATIVE), abs=1e-9)
    assert found.reduce(Reduce.MIN) == min(found.single)
    assert found.reduce(Reduce.LAST) == found.single[-1]


def test_reductions_by_hand() -> None:
    found = ImplicitRewards((1.0, -3.0, 0.5), (1.0, -2.0, -1.5))
    assert [found.reduce(how) for how in Reduce] == [-3.0, -1.5, 0.5]
    assert [found.reduce(how, Reward.CUMULATIVE) for how in Reduce] == [-2.0, -2.5, -1.5]


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "granite"])
async def test_chunked_log_probabilities(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = tiny_models.save_qwen_tokenizer(tmp_path)
    scaled = {"logits_scaling": 3.0} if kind == "granite" else {}
    tiny_models.save_model(tmp_path, kind, size, **scaled)
    # Neither the vocabulary nor the tokens are a multiple of a block.
    monkeypatch.setattr(forward, "_VOCABULARY_BLOCK", 37)
    monkeypatch.setattr(forward, "_TOKEN_BLOCK", 5)
    # The longest sequence is alone in its part, the others are not, and parts are in another order than rows.
    monkeypatch.setattr(forward, "_CPU_TOKENS", 85)
    threads = torch.get_num_threads()
    engine = await load_engine("transformers", str(tmp_path), threads=2)
    try:
        assert await engine.run_model(forward.has_plain_head) is (kind != "granite")
        rows = [[(7 * j + k) % size for j in range(length)] for k, length in enumerate((2, 40, 13, 90))]
        model = LogprobModel(engine)
        found = await asyncio.gather(*(model.logprobs(ids, start) for ids in rows for start in (1, len(ids) - 1)))
        # Parts were computed side by side, on a thread each; threads started from now on have all of them again.
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == 2
    finally:
        await engine.close()
        torch.set_num_threads(threads)
    exact = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    for index, ids in enumerate(rows):
        with torch.inference_mode():
            logprobs = exact(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        expected = logprobs[torch.arange(len(ids) - 1), ids[1:]].tolist()
        assert found[2 * index] == pytest.approx(expected, abs=1e-4)
        assert found[2 * index + 1] == pytest.approx(expected[-1:], abs=1e-4)


async def test_another_vocabulary_is_refused(pair: Pair, both: Open) -> None:
    if "qwen2" not in pair.stranger.name:
        pytest.skip("the Llama tokenizers are all one")
    engine = await load_engine("transformers", str(pair.stranger))
    try:
        stranger = LogprobModel(engine, tokenizer=both.tokenizer)
        with pytest.raises(PRMError, match="another vocabulary"):
            await ImplicitPRM(both.model, stranger, both.tokenizer).judge(PROBLEM, SOLUTIONS[0])
    finally:
        await engine.close()


async def test_what_cannot_be_judged_is_refused(both: Open) -> None:
    prm = both.prm()
    with pytest.raises(ContextOverflowError, match="512 tokens"):
        await prm.judge(PROBLEM, ["48 + 24 = 72. " * 100])
    with pytest.raises(PRMError, match="no steps"):
        await prm.judge(PROBLEM, [])
    with pytest.raises(PRMError, match="above 0, not 0"):
        both.prm(beta=0)
    with pytest.raises(PRMError, match=r"'exact'.*clean, upstream"):
        both.prm(mode="exact")
    with pytest.raises(PRMError, match="trained with"):
        await load_implicit(Source(str(both.folders.prm)))


# One model at a time, and the cache.


def files_in(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


class Counting:
    """Opens an engine, and keeps count of those that are open."""

    open = 0
    most = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.times = 0

    async def __call__(self) -> Engine:
        engine = await load_engine("transformers", str(self.folder))
        Counting.open += 1
        Counting.most = max(Counting.most, Counting.open)
        self.times += 1
        close = engine.close

        async def counted() -> None:
            Counting.open -= 1
            await close()

        engine.close = counted  # pyright: ignore[reportAttributeAccessIssue]
        return engine


async def test_rows_are_judged_with_one_model_open_at_a_time(pair: Pair, both: Open, tmp_path: Path) -> None:
    Counting.open = Counting.most = 0
    openings = Counting(pair.prm), Counting(pair.reference)
    cache = LogprobCache(tmp_path)
    model = LogprobModel(openings[0], name="prm", tokenizer=both.tokenizer)
    reference = LogprobModel(openings[1], name="reference", tokenizer=both.tokenizer, cache=cache)
    prm = ImplicitPRM(model, reference, both.tokenizer)
    rows = [(PROBLEM, steps) for steps in SOLUTIONS]
    rows.insert(1, (PROBLEM, ["too long " * 400]))
    rows.insert(2, (PROBLEM, ["", "b"]))
    judged = await prm.judge_rows(rows)
    assert (Counting.most, Counting.open) == (1, 0)
    assert isinstance(judged[1], ContextOverflowError)
    assert isinstance(judged[2], PRMError)
    good = [judgement for judgement in judged if isinstance(judgement, Judgement)]
    for steps, judgement in zip(SOLUTIONS, good, strict=True):
        expected = await both.prm(beta=0.001).judge(PROBLEM, steps)
        assert judgement.scores == pytest.approx(expected.scores, abs=1e-6)
    # The reference knows its answers now, and stays closed.
    again = await prm.judge_rows([row for row in rows if row[1][0] and len(row[1][0]) < 1000])
    assert [j.scores for j in again if isinstance(j, Judgement)] == [j.scores for j in good]
    assert [opening.times for opening in openings] == [2, 1]
    assert reference.hits == len(SOLUTIONS)


async def test_load_opens_and_closes(pair: Pair, tmp_path: Path) -> None:
    prm = await load_implicit(
        Source(str(pair.prm)),
        Source(str(pair.reference)),
        engine="transformers",
        cache=tmp_path,
        profile=ImplicitProfile(beta=1.0),
    )
    try:
        found = await prm.rewards(PROBLEM, SOLUTIONS[0])
        assert list(found.cumulative) == pytest.approx(direct(pair, SOLUTIONS[0], ImplicitMode.CLEAN), abs=2e-3)
    finally:
        await prm.close()
    assert len(files_in(tmp_path)) == 1


async def test_a_reference_in_fewer_bits_is_near_and_cached_by_itself(pair: Pair, tmp_path: Path) -> None:
    found: dict[str | None, list[float]] = {}
    for dtype in (None, "bfloat16", "int8"):
        prm = await load_implicit(
            Source(str(pair.prm)),
            Source(str(pair.reference), dtype=dtype or "auto"),
            engine="transformers",
            cache=tmp_path,
            profile=ImplicitProfile(beta=1.0),
        )
        try:
            found[dtype] = list((await prm.rewards(PROBLEM, SOLUTIONS[0])).single)
        finally:
            await prm.close()
    assert len(files_in(tmp_path)) == 3
    for dtype, most in (("bfloat16", 1.5), ("int8", 4.0)):
        # Nats, summed over the tokens of a step, of models whose random weights are ten times as large as trained ones.
        assert found[dtype] == pytest.approx(found[None], abs=most)
        assert found[dtype] != found[None]


def test_released_models_know_their_reference() -> None:
    names = ("PRIME-RL/EurusPRM-Stage1", "Windy0822/ImplicitPRM_DPO", "Qwen/Qwen3-4B")
    assert [(known := detect_implicit(name)) and known.reference for name in names] == [
        "Qwen/Qwen2.5-Math-7B-Instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        None,
    ]


def test_a_damaged_file_counts_as_absent(tmp_path: Path) -> None:
    cache = LogprobCache(tmp_path)
    key = cache.key("model", "tokenizer", [1, 2, 3], 1)
    assert cache.get(key, 2) is None
    cache.put(key, [-0.5, -1.25])
    assert cache.get(key, 2) == [-0.5, -1.25]
    assert cache.get(key, 3) is None
    (file,) = files_in(tmp_path)
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", b"x" + whole[1:], whole[:20] + b"\xff" + whole[21:]):
        file.write_bytes(damaged)
        assert cache.get(key, 2) is None
        cache.put(key, [-0.5, -1.25])
        assert file.read_bytes() == whole
    assert not list(tmp_path.rglob("*.tmp"))


def test_keys_tell_apart_what_differs(tmp_path: Path) -> None:
    key = LogprobCache.key
    keys = {key("m", "t", [1, 2], 1), key("n", "t", [1, 2], 1), key("m", "u", [1, 2], 1), key("m", "t", [2, 1], 1)}
    keys |= {key("m", "t", [1, 2], 2), key("m", "t", [1], 1), key("m", "t", [258], 1)}
    assert len(keys) == 7
    assert weights_name("Qwen/Qwen3-4B", "abc") == "Qwen/Qwen3-4B@abc"
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = weights_name(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert weights_name(str(tmp_path)) != before


def _hammer(folder: str, seed: int) -> int:
    cache = LogprobCache(Path(folder))
    wrong = 0
    for round_ in range(200):
        number = (round_ * 7 + seed) % 10
        key = cache.key("m", "t", [number], 1)
        values = [float(-number)] * 50
        kept = cache.get(key, 50)
        wrong += kept not in (None, values)
        cache.put(key, values)
    return wrong


@pytest.mark.slow
def test_processes_share_a_cache(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.starmap(_hammer, [(str(tmp_path), seed) for seed in range(3)]) == [0, 0, 0]
    assert len(files_in(tmp_path)) == 10
