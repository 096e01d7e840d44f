"""One contract, three engines: every test here runs on each of them with the same tiny model."""

from __future__ import annotations

import asyncio
import math
import re
import urllib.request
from pathlib import Path

import pytest
import torch
import transformers

from genprm.engines import Completion, ContextOverflowError, Engine, EngineError, Finish, Sampling
from genprm.engines.openai import OpenAIEngine
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.transformers.engine import TransformersEngine
from tests.engines.conftest import SENTENCES

# Starting vLLM takes minutes where many share the processor.
pytestmark = pytest.mark.timeout(900)

PROMPTS = [SENTENCES[0], "<｜User｜>A robe takes 2 bolts", "print(48 / 2)\n", "How many", SENTENCES[3]]


@pytest.fixture(scope="session")
def network(tiny_model: Path) -> transformers.PreTrainedModel:
    """The tiny model, to be asked directly."""
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def logits_of(network: transformers.PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return network(torch.tensor([ids]), use_cache=False).logits[0]


def greedy(network: transformers.PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    """Greedy ids, one whole forward pass a token."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(logits_of(network, ids)[-1].argmax()))
    return ids[len(prompt) :]


@pytest.fixture(scope="session")
def written(network: transformers.PreTrainedModel, tiny_model: Path) -> dict[str, list[int]]:
    """60 greedy ids behind each prompt; none of them ends the text."""
    tokenizer = Tokenizer.from_pretrained(str(tiny_model))
    ids = {prompt: greedy(network, tokenizer.encode(prompt, special=True), 60) for prompt in PROMPTS}
    assert all(tokenizer.eos_id not in tokens and len(set(tokens)) > 15 for tokens in ids.values())
    return ids


def encoded(engine: Engine, prompt: str) -> list[int]:
    return engine.tokenizer.encode(prompt, special=True)


def check(engine: Engine, completion: Completion) -> None:
    """What holds for every completion."""
    assert engine.tokenizer.decode(completion.token_ids) == completion.text
    assert engine.tokenizer.eos_id not in completion.token_ids
    assert (completion.stop is None) == (completion.finish is not Finish.STOP)
    assert completion.stop is None or completion.text.endswith(completion.stop)


async def test_greedy_text_is_what_the_model_says(engine: Engine, written: dict[str, list[int]]) -> None:
    for prompt, ids in written.items():
        completion = await engine.generate(encoded(engine, prompt), Sampling(60))
        check(engine, completion)
        assert completion.token_ids == tuple(ids)
        assert completion.finish is Finish.LENGTH
        assert completion.sampled_tokens == 60


async def test_greedy_text_does_not_depend_on_the_company(engine: Engine, written: dict[str, list[int]]) -> None:
    # More than fit at once, of different lengths, half of them sampled.
    calls = [
        engine.generate(encoded(engine, prompt), Sampling(tokens, temperature=heat, seed=tokens))
        for tokens in (60, 7, 33, 1, 52)
        for prompt in written
        for heat in (0.0, 1.0)
    ]
    for call, completion in zip(range(len(calls)), await asyncio.gather(*calls), strict=True):
        check(engine, completion)
        if call % 2 == 0:
            expected = written[PROMPTS[call // 2 % len(PROMPTS)]]
            assert completion.token_ids == tuple(expected[: len(completion.token_ids)])


async def test_watched_tokens_have_the_scores_that_a_question_would_give(
    engine: Engine, written: dict[str, list[int]]
) -> None:
    prompt = PROMPTS[0]
    ids = encoded(engine, prompt)
    (stop, *_) = stops_in(engine, written[prompt])
    watch = tuple(engine.tokenizer.encode(word)[-1] for word in ("Yes", "No", " ", "4"))
    samplings = [
        Sampling(12, watch=watch),
        Sampling(12, temperature=1.3, top_p=0.6, top_k=5, seed=3, watch=watch),
        Sampling(60, stop=(stop,), watch=watch),
    ]
    alone = await engine.generate(ids, Sampling(12))
    assert alone.watched == ()
    for done in await asyncio.gather(*(engine.generate(ids, sampling, chain="a") for sampling in samplings)):
        check(engine, done)
        # A re-tokenised last piece has a score for its first token only.
        assert len(done.token_ids) - 3 <= len(done.watched) <= len(done.token_ids)
        for place in range(0, len(done.watched), 3):
            asked = await engine.choice_logprobs([*ids, *done.token_ids[:place]], watch)
            assert done.watched[place] == pytest.approx(asked, abs=1e-4)
            yes, no = (math.exp(done.watched[place][index]) for index in (0, 1))
            asked_yes, asked_no = math.exp(asked[0]), math.exp(asked[1])
            assert yes / (yes + no) == pytest.approx(asked_yes / (asked_yes + asked_no), abs=1e-6)
    with pytest.raises(EngineError, match="1 to 16 next tokens"):
        await engine.generate(ids, Sampling(1, watch=tuple(range(17))))


def stops_in(engine: Engine, ids: list[int]) -> list[str]:
    """Stop strings cut out of a text: over several tokens, inside one, and ending in the middle of one."""
    pieces = [engine.tokenizer.decode([token]) for token in ids]
    stops: list[str] = []
    for index in range(4, len(pieces) - 3):
        if len(pieces[index]) >= 3 and "�" not in "".join(pieces[index - 2 : index + 1]):
            stops += [
                "".join(pieces[index - 2 : index + 1]),
                pieces[index - 1] + pieces[index][:-1],
                pieces[index][:2],
                pieces[index][1:-1],
            ]
    assert len(stops) >= 8
    return stops


async def test_stop_strings_over_and_inside_tokens(engine: Engine, written: dict[str, list[int]]) -> None:
    cases: list[tuple[str, str]] = [(p, stop) for p, ids in written.items() for stop in stops_in(engine, ids)[:16]]
    calls = [engine.generate(encoded(engine, prompt), Sampling(60, stop=(stop,))) for prompt, stop in cases]
    for (prompt, stop), completion in zip(cases, await asyncio.gather(*calls), strict=True):
        check(engine, completion)
        whole = engine.tokenizer.decode(written[prompt])
        assert completion.text == whole[: whole.index(stop) + len(stop)], stop
        assert completion.stop == stop
        # Only the last piece may differ from what the model sampled.
        whole_tokens = sum(
            completion.text.startswith(engine.tokenizer.decode(written[prompt][:count])) for count in range(1, 60)
        )
        assert list(completion.token_ids[:whole_tokens]) == written[prompt][:whole_tokens]


async def test_the_first_of_several_stop_strings_ends_it(engine: Engine, written: dict[str, list[int]]) -> None:
    prompt, ids = PROMPTS[0], written[PROMPTS[0]]
    text = engine.tokenizer.decode(ids)
    late, early = text[40:44], text[14:17]
    assert text.index(early) < text.index(late)
    completion = await engine.generate(encoded(engine, prompt), Sampling(60, stop=(late, "never written", early)))
    check(engine, completion)
    assert completion.stop == early
    assert completion.text == text[: text.index(early) + len(early)]


async def test_a_stopped_text_can_be_continued(engine: Engine, written: dict[str, list[int]]) -> None:
    prompt = encoded(engine, PROMPTS[0])
    stop = stops_in(engine, written[PROMPTS[0]])[0]
    first = await engine.generate(prompt, Sampling(60, stop=(stop,)), chain="one")
    second = await engine.generate([*prompt, *first.token_ids], Sampling(5), chain="one")
    kept = len(first.token_ids)
    assert [*first.token_ids, *second.token_ids] == written[PROMPTS[0]][: kept + 5]


async def test_max_tokens_is_kept_and_cut_to_the_context(engine: Engine) -> None:
    one = await engine.generate(encoded(engine, "How many"), Sampling(1))
    assert len(one.token_ids) == 1
    long = (encoded(engine, SENTENCES[0]) * 40)[: engine.max_model_len - 9]
    rest = await engine.generate(long, Sampling(100))
    check(engine, rest)
    assert (len(rest.token_ids), rest.finish) == (9, Finish.LENGTH)


async def test_a_seed_fixes_the_text(engine: Engine) -> None:
    prompt = encoded(engine, PROMPTS[1])
    for cut in (Sampling(40, 1.0, seed=3), Sampling(40, 0.8, top_p=0.9, seed=3), Sampling(40, 1.2, top_k=20, seed=3)):
        alone = await engine.generate(prompt, cut)
        others = [
            engine.generate(encoded(engine, p), Sampling(30, 1.0, top_p=0.5, top_k=k, seed=k))
            for k in (0, 5)
            for p in PROMPTS
        ]
        again, *_ = await asyncio.gather(engine.generate(prompt, cut), *others)
        assert again.token_ids == alone.token_ids
        check(engine, alone)
    texts = await asyncio.gather(*(engine.generate(prompt, Sampling(40, 1.0, seed=seed)) for seed in range(6)))
    assert len({completion.text for completion in texts}) == 6
    free = await asyncio.gather(*(engine.generate(prompt, Sampling(40, 1.0)) for _ in range(4)))
    assert len({completion.text for completion in free}) == 4


async def test_top_k_and_top_p_leave_out_the_unlikely(engine: Engine, network: transformers.PreTrainedModel) -> None:
    prompt = encoded(engine, PROMPTS[2])
    probs, order = logits_of(network, prompt)[-1].softmax(-1).sort(descending=True)
    nucleus = int((probs.cumsum(-1) < 0.8).sum()) + 1
    assert nucleus > 1
    for sampling, allowed in (({"top_k": 3}, 3), ({"top_p": 0.8}, nucleus)):
        drawn = await asyncio.gather(
            *(engine.generate(prompt, Sampling(1, 1.0, seed=seed, **sampling)) for seed in range(60))
        )
        ids = {i for completion in drawn for i in completion.token_ids}
        assert ids <= set(order[:allowed].tolist())
        assert len(ids) > 1


async def test_choice_logprobs_are_exact(engine: Engine, network: transformers.PreTrainedModel) -> None:
    busy = [
        asyncio.create_task(engine.generate(encoded(engine, p), Sampling(50, temperature=2.0, top_k=1)))
        for p in PROMPTS
    ]
    for prompt in PROMPTS:
        ids = encoded(engine, prompt)
        expected = logits_of(network, ids)[-1].log_softmax(-1)
        # Likely and unlikely ones, in no order, one of them twice.
        choices = [int(expected.argmax()), int(expected.argmin()), 65, 400, 66, 65]
        scores = await engine.choice_logprobs(ids, choices, chain="a")
        assert scores == pytest.approx(expected[choices].tolist(), abs=2e-3)
    await asyncio.gather(*busy)


async def test_prompt_logprobs_are_exact(engine: Engine, network: transformers.PreTrainedModel) -> None:
    prompts = [encoded(engine, prompt) for prompt in PROMPTS]
    rows = await asyncio.gather(*(engine.prompt_logprobs(ids) for ids in prompts))
    for ids, row in zip(prompts, rows, strict=True):
        expected = logits_of(network, ids)[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert row == pytest.approx(expected.tolist(), abs=2e-3)
    assert await engine.prompt_logprobs([65]) == []


async def test_the_end_of_the_turn_is_left_out(engine: Engine) -> None:
    prompt = encoded(engine, PROMPTS[0])
    # As hot as can be: one token in 700 ends the turn.
    drawn = await asyncio.gather(*(engine.generate(prompt, Sampling(400, 2.0, seed=seed)) for seed in range(16)))
    ended = [completion for completion in drawn if completion.finish is Finish.EOS]
    assert ended
    for completion in drawn:
        check(engine, completion)
        assert completion.sampled_tokens == len(completion.token_ids) + (completion.finish is Finish.EOS)


async def running(engine: Engine) -> int:
    """Requests that the engine itself still works on."""
    if isinstance(engine, TransformersEngine):
        return engine.pending
    if isinstance(engine, OpenAIEngine):
        url = engine.router.servers[0].base_url.removesuffix("/v1") + "/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=20).read().decode())
        counts = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} ([\d.]+)$", page, re.MULTILINE)
        assert len(counts) >= 2
        return int(sum(map(float, counts)))
    return engine.llm.get_num_unfinished_requests()


async def test_cancelled_calls_free_their_slots(engine: Engine, written: dict[str, list[int]]) -> None:
    prompt = encoded(engine, PROMPTS[0])
    calls = [asyncio.create_task(engine.generate(prompt, Sampling(400, 1.0, seed=seed))) for seed in range(48)]
    for _ in range(100):
        await asyncio.sleep(0.05)
        if await running(engine) > 0:
            break
    else:
        pytest.fail("no request is being worked on")
    for call in calls[1:]:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], Completion)
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) >= 24
    for _ in range(100):
        if await running(engine) == 0:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("cancelled requests are still being worked on")
    assert (await engine.generate(prompt, Sampling(60))).token_ids == tuple(written[PROMPTS[0]])


async def test_seeded_prompts_that_no_batch_holds_together(engine: Engine) -> None:
    ids = (encoded(engine, PROMPTS[0]) * 40)[:480]
    drawn = await asyncio.gather(
        *(engine.generate([*ids[: 480 - seed], *ids[:seed]], Sampling(8, 1.0, seed=seed)) for seed in range(32))
    )
    for completion in drawn:
        check(engine, completion)
    assert len({completion.token_ids for completion in drawn}) > 16


async def test_a_bad_request_harms_no_other(engine: Engine, written: dict[str, list[int]]) -> None:
    prompt = encoded(engine, PROMPTS[3])
    too_long = prompt * 300
    outcomes = await asyncio.gather(
        engine.generate(prompt, Sampling(60)),
        engine.generate(too_long, Sampling(1)),
        engine.generate([5, 10_000_000], Sampling(60)),
        engine.generate([], Sampling(60)),
        engine.choice_logprobs(prompt, []),
        engine.choice_logprobs(prompt, [-1]),
        engine.choice_logprobs(too_long, [65]),
        engine.prompt_logprobs(too_long),
        engine.generate(prompt, Sampling(60)),
        return_exceptions=True,
    )
    good = (outcomes.pop(0), outcomes.pop())
    assert all(isinstance(g, Completion) and g.token_ids == tuple(written[PROMPTS[3]]) for g in good)
    overflow = [isinstance(outcome, ContextOverflowError) for outcome in outcomes]
    assert overflow == [True, False, False, False, False, True, True]
    assert all(isinstance(outcome, EngineError) for outcome in outcomes)
    assert "10000000" in str(outcomes[1])


async def test_a_prompt_seen_before_is_not_computed_again(engine: Engine) -> None:
    prompt = (encoded(engine, SENTENCES[4]) * 20)[:200]
    await engine.generate(prompt, Sampling(1))
    again = await engine.generate([*prompt, 65, 66], Sampling(1))
    # vLLM finds whole blocks of 32 again, the transformers engine every token.
    assert again.cached_tokens == (200 if isinstance(engine, TransformersEngine) else 192)


async def test_what_an_engine_says_of_itself(engine: Engine, tiny_model: Path) -> None:
    assert engine.model_name == str(tiny_model)
    assert engine.max_model_len == 512
    assert engine.capacity == 16
    if isinstance(engine, TransformersEngine):
        assert engine.cache_tokens is None
    else:  # vLLM says, in this process or as a server
        assert engine.cache_tokens is not None
        assert engine.cache_tokens >= 512
        assert engine.cache_tokens % 32 == 0
