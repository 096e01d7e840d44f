"""What the transformers engine keeps of earlier prompts: the same results, and fewer tokens computed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genprm.engines.base import Completion, Sampling
from genprm.engines.transformers.engine import TransformersEngine
from genprm.engines.transformers.prefixes import CUT_TOKENS, Prefixes

STATES = [(torch.ones(2, 10, 4), torch.ones(2, 10, 4))]
WATCH = (5, 6)


def computed(engine: TransformersEngine) -> list[int]:
    """The number of tokens of each of the model's passes from now on."""
    passes: list[int] = []
    model: Any = engine.model
    forward = model.forward

    def counting(**inputs: Any) -> Any:
        passes.append(inputs["input_ids"].numel())
        return forward(**inputs)

    model.forward = counting
    return passes


async def alone(model: Path, prompt: list[int], sampling: Sampling) -> Completion:
    """What an engine answers that has done nothing else."""
    engine = await TransformersEngine.load(str(model))
    done = await engine.generate(prompt, sampling)
    await engine.close()
    assert done.cached_tokens == 0
    return done


async def test_a_chain_computes_only_what_is_new(tiny_model: Path) -> None:
    engine = await TransformersEngine.load(str(tiny_model))
    passes = computed(engine)
    prompt = engine.tokenizer.encode("Natalia sold clips to 48 of her friends in April.")
    for turn in range(4):
        passes.clear()
        done = await engine.generate(prompt, Sampling(6, watch=WATCH))
        expected = await alone(tiny_model, prompt, Sampling(6, watch=WATCH))
        assert done.token_ids == expected.token_ids
        assert np.asarray(done.watched) == pytest.approx(np.asarray(expected.watched), abs=1e-4)
        assert passes[0] == len(prompt) - done.cached_tokens
        if turn:
            assert passes[0] <= 12
        prompt = [*prompt, *done.token_ids, *engine.tokenizer.encode(" She sold half as many.")]
    await engine.close()


async def test_prompts_that_share_little_and_much_are_computed_together(tiny_model: Path) -> None:
    """Some continue a chain, some begin like one, some are new, one is repeated, one is a single token."""
    engine = await TransformersEngine.load(str(tiny_model))
    encode = engine.tokenizer.encode
    first = encode("Weng earns 12 dollars an hour for babysitting. " * 8)
    second = encode("Betty is saving money for a new wallet.")
    for prompt in (first, second):
        await engine.generate(prompt, Sampling(8))
    prompts = [
        [*first, *encode(" Yesterday")],
        [*first[:40], *encode(" She needs more of it than she has got.")],
        [*second, *encode(" Her parents give her fifteen.")],
        encode("Julie is reading a 120 page book, and yesterday she was able to read twelve pages. " * 3),
        first,
        first[:1],
    ]
    together = await asyncio.gather(*(engine.generate(prompt, Sampling(12, watch=WATCH)) for prompt in prompts))
    await engine.close()
    assert [done.cached_tokens for done in together][:2] == [len(first), 40]
    assert together[4].cached_tokens == len(first) - 1
    for prompt, done in zip(prompts, together, strict=True):
        expected = await alone(tiny_model, prompt, Sampling(12, watch=WATCH))
        assert done.token_ids == expected.token_ids
        assert np.asarray(done.watched) == pytest.approx(np.asarray(expected.watched), abs=1e-4)


def test_a_longer_sequence_replaces_the_one_it_continues() -> None:
    kept = Prefixes()
    kept.keep(list(range(100)), STATES)
    kept.keep([*range(100 - CUT_TOKENS), 7, 8, 9], STATES)  # cut at a stop string, then continued
    assert len(kept) == 1
    kept.keep([*range(50), *range(500, 600)], STATES)  # another chain on the same problem
    assert len(kept) == 2
    found = kept.find([*range(50), *range(500, 520), 3])
    assert found is not None
    assert found[1] == 70
    assert kept.find([900, 901]) is None
    assert kept.find([0]) is None, "the logits of the last token are wanted"


def test_the_sequences_used_longest_ago_are_dropped() -> None:
    size = sum(one.nbytes for one in STATES[0])
    kept = Prefixes(limit=2 * size)
    one, two, three = ([first, *range(40)] for first in (1001, 1002, 1003))
    kept.keep(one, STATES)
    kept.keep(two, STATES)
    assert kept.find([*one, 5]) is not None
    kept.keep(three, STATES)
    assert kept.find([*two, 5]) is None
    assert kept.find([*one, 5]) is not None
    kept.keep([2000], [(torch.ones(2, 100, 4), torch.ones(2, 100, 4))])  # larger than all there is room for
    assert len(kept) == 0
