"""Specific to the transformers engine: the model itself, odd architectures, failures."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from genprm.engines import EngineError, Finish, Sampling, load_engine
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.transformers import decoder
from genprm.engines.transformers.engine import TransformersEngine
from genprm.engines.transformers.sampler import next_tokens
from tests.engines.conftest import SENTENCES


async def opened(model: Path, **options: Any) -> TransformersEngine:
    engine = await load_engine("transformers", str(model), **options)
    assert isinstance(engine, TransformersEngine)
    return engine


async def test_the_model_can_be_used_between_tokens(tiny_model: Path) -> None:
    engine = await opened(tiny_model)
    ids = engine.tokenizer.encode(SENTENCES[0])
    busy = asyncio.create_task(engine.generate(ids, Sampling(200, 1.0, seed=1)))

    def hidden(model: Any) -> torch.Tensor:
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]

    states = await engine.run_model(hidden)
    assert states.shape == (1, len(ids), 64)
    assert states.dtype == torch.float32
    with pytest.raises(ZeroDivisionError):
        await engine.run_model(lambda _: 1 // 0)
    assert (await busy).sampled_tokens == 200
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await engine.run_model(hidden)


async def test_a_failing_model_fails_only_those_it_was_computing(tiny_model: Path) -> None:
    engine = await opened(tiny_model, max_num_seqs=2)
    prompt = engine.tokenizer.encode(SENTENCES[0])
    expected = await engine.generate(prompt, Sampling(20))
    model: Any = engine.model
    forward, calls = model.forward, 0

    def broken(**inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("no memory left")
        return forward(**inputs)

    model.forward = broken
    outcomes = await asyncio.gather(*(engine.generate(prompt, Sampling(20)) for _ in range(5)), return_exceptions=True)
    failed = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
    assert [str(error) for error in failed] == ["the model failed: no memory left"] * 2
    answered = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert [outcome.token_ids for outcome in answered] == [expected.token_ids] * 3
    await engine.close()


def reference(model: Any, prompt: list[int], tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(tokens):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("sliding", [False, True])
async def test_sequences_of_very_different_length_share_a_batch(tiny_model: Path, sliding: bool) -> None:
    """Short ones join long ones and the other way round, so that the batch grows, shifts and shrinks."""
    tokenizer = Tokenizer.from_pretrained(str(tiny_model))
    torch.manual_seed(3)
    config: Any = transformers.MistralConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        sliding_window=16 if sliding else None,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_id,
    )
    model = transformers.MistralForCausalLM(config)
    engine = TransformersEngine(model, tokenizer, model_name="mistral", max_num_seqs=6, prefill_tokens=256)
    rng = random.Random(5)
    sizes = [(3, 90), (90, 4), (1, 30), (200, 30), (5, 5), (64, 50), (2, 2), (130, 1), (17, 60)]
    calls = [([rng.randrange(400) for _ in range(length)], tokens) for length, tokens in sizes]
    expected = [await engine.run_model(lambda m, call=call: reference(m, *call)) for call in calls]
    completions = await asyncio.gather(*(engine.generate(ids, Sampling(tokens)) for ids, tokens in calls))
    for completion, ids in zip(completions, expected, strict=True):
        if completion.finish is Finish.EOS:
            ids = ids[: ids.index(tokenizer.eos_id or 0)]
        assert list(completion.token_ids) == ids
    await engine.close()


async def test_a_long_prompt_is_scored_in_pieces(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await opened(tiny_model)
    prompts = [engine.tokenizer.encode(sentence) for sentence in SENTENCES]
    whole = [await engine.prompt_logprobs(ids) for ids in prompts]
    monkeypatch.setattr(decoder, "LOGITS_BYTES", 4 * engine.tokenizer.vocab_size * 7)
    pieces = await asyncio.gather(*(engine.prompt_logprobs(ids) for ids in prompts))
    for one, other in zip(whole, pieces, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    await engine.close()


async def test_what_cannot_be_served_is_refused_at_once(tiny_model: Path) -> None:
    with pytest.raises(EngineError, match="max_model_len 1024 is more than the 512 tokens"):
        await opened(tiny_model, max_model_len=1024)
    with pytest.raises(EngineError, match="max_num_seqs"):
        await opened(tiny_model, max_num_seqs=0)
    with pytest.raises(EngineError, match="does not load"):
        await opened(tiny_model, dtype="float17")
    with pytest.raises(EngineError, match="'/nowhere/at-all'"):
        await opened(Path("/nowhere/at-all"))
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(EngineError, match=r"layers of type \['linear_attention'\]: use the vllm engine"):
        TransformersEngine(model, Tokenizer.from_pretrained(str(tiny_model)), model_name="odd")


def test_a_rows_token_does_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 50, generator=generator) * 3
    kinds = (Sampling(1), Sampling(1, 1.0), Sampling(1, 0.7, top_k=5), Sampling(1, 1.3, top_p=0.8, top_k=9))
    samplings = [kinds[row % 4] for row in range(200)]
    together = next_tokens(logits, samplings, [random.Random(row) for row in range(200)])
    alone = [next_tokens(logits[[row]], [samplings[row]], [random.Random(row)])[0] for row in range(200)]
    assert together == alone
    assert together[::4] == logits[::4].argmax(-1).tolist()


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    logits = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))
    expected = {
        Sampling(1, 1.0): [0.5, 0.25, 0.15, 0.1],
        Sampling(1, 1.0, top_k=2): [2 / 3, 1 / 3, 0, 0],
        Sampling(1, 1.0, top_p=0.76): [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0],
        # top_p counts what top_k left: 0.5 of 0.75 does not reach 0.7, so both stay.
        Sampling(1, 1.0, top_k=2, top_p=0.7): [2 / 3, 1 / 3, 0, 0],
        Sampling(1, 0.5): [p * p / 0.345 for p in (0.5, 0.25, 0.15, 0.1)],
    }
    rng = random.Random(0)
    for sampling, probabilities in expected.items():
        drawn = next_tokens(logits.expand(4000, 4), [sampling] * 4000, [rng] * 4000)
        shares = [drawn.count(token) / 4000 for token in range(4)]
        assert shares == pytest.approx(probabilities, abs=0.03)
