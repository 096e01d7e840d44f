"""The engine on servers: what it sends, and what it does when they fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from genprm.engines import ContextOverflowError, EngineError, Finish, Sampling, load_engine
from genprm.engines.openai import OpenAIEngine
from tests.conftest import free_port
from tests.engines.conftest import SENTENCES
from tests.engines.servers import HANG, Gate, completed, scripted

# Starting vLLM takes minutes where many share the processor.
pytestmark = pytest.mark.timeout(900)


@contextlib.asynccontextmanager
async def engine_on(
    tiny_model: Path, *urls: str, model: str | None = None, **options: Any
) -> AsyncIterator[OpenAIEngine]:
    engine = await load_engine("auto", model, base_urls=urls, tokenizer=str(tiny_model), **options)
    assert isinstance(engine, OpenAIEngine)
    try:
        yield engine
    finally:
        await engine.close()


async def test_what_is_sent_leaves_nothing_to_the_servers_defaults(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret")
    async with scripted(completed([65, 66])) as server:
        async with engine_on(tiny_model, server.url, api_key_env="SOME_KEY") as engine:
            completion = await engine.generate([5, 6], Sampling(100, 0.6, top_p=0.95, top_k=20, stop=("x",), seed=4))
        assert (completion.token_ids, completion.finish) == ((65, 66), Finish.LENGTH)
        assert set(server.keys) == {"Bearer s3cret"}
        assert server.bodies[0] == {
            "model": "tiny",
            "prompt": [5, 6],
            "max_tokens": 62,
            "temperature": 0.6,
            "top_p": 0.95,
            "top_k": 20,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": 4,
            "stop": ["x"],
            "stop_token_ids": [439],
            "include_stop_str_in_output": True,
            "repetition_detection": {"max_pattern_size": 200, "min_pattern_size": 16, "min_count": 6},
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "add_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }


async def test_a_busy_server_is_asked_again(tiny_model: Path) -> None:
    async with scripted(429, 500, completed([65])) as server, engine_on(tiny_model, server.url) as engine:
        assert (await engine.generate([5], Sampling(1))).token_ids == (65,)
        assert len(server.bodies) == 3


async def test_a_failing_server_is_left_alone_and_its_chain_moves(tiny_model: Path) -> None:
    async with scripted(503) as bad, scripted(completed([65])) as good:
        async with engine_on(tiny_model, bad.url, good.url, retries=0) as engine:
            for _ in range(3):
                assert (await engine.generate([5], Sampling(1), chain="one")).token_ids == (65,)
            await engine.generate([5], Sampling(1), chain="two")
            assert [server.in_flight for server in engine.router.servers] == [0, 0]
        assert (len(bad.bodies), len(good.bodies)) == (1, 4)


async def test_a_server_that_hangs_is_given_up(tiny_model: Path) -> None:
    async with (
        scripted(HANG) as bad,
        scripted(completed([65])) as good,
        engine_on(tiny_model, bad.url, good.url, retries=0, timeout_s=1.0) as engine,
    ):
        assert (await engine.generate([5], Sampling(1))).token_ids == (65,)


async def test_patience_comes_to_an_end(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with scripted(500) as one, scripted(429) as two:
        async with engine_on(tiny_model, one.url, two.url, retries=0, patience_s=1.5) as engine:
            calls = (engine.generate([5], Sampling(1)) for _ in range(3))
            failed = await asyncio.gather(*calls, return_exceptions=True)
        for error in failed:
            assert isinstance(error, EngineError)
            assert str(error) == (
                f"no server answered for 1.5 s: {one.url} (Error code: 500 - scripted 500); "
                f"{two.url} (Error code: 429 - scripted 429)"
            )
        assert (len(one.bodies), len(two.bodies)) == (6, 6)
    # A failing server is logged once, not for every request; a busy one is not a failure.
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{one.url} failed: Error code: 500 - scripted 500; its requests are retried for up to 1.5 s"]


async def test_a_refusal_is_final(tiny_model: Path) -> None:
    overflow = {"status": 400, "error": {"message": "This model's maximum context length is 64 tokens. You have 70."}}
    async with scripted(dict(overflow), 400, completed([65])) as server, engine_on(tiny_model, server.url) as engine:
        with pytest.raises(ContextOverflowError, match="maximum context length is 64"):
            await engine.generate([5], Sampling(1))
        with pytest.raises(EngineError, match=r"refuses a request: .*scripted 400"):
            await engine.generate([5], Sampling(1))
        assert len(server.bodies) == 2


async def test_a_cancelled_call_lets_go_of_its_server(tiny_model: Path) -> None:
    async with scripted(HANG) as server, engine_on(tiny_model, server.url) as engine:
        call = asyncio.create_task(engine.generate([5], Sampling(1)))
        await server.asked.wait()
        assert engine.router.servers[0].in_flight == 1
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert engine.router.servers[0].in_flight == 0


async def test_a_server_that_keeps_its_ids_is_read_by_its_text(tiny_model: Path) -> None:
    cut_off = completed(None, "48 clips", "stop", matched_stop=" in")
    async with scripted(cut_off, completed(None, "48 clips")) as server, engine_on(tiny_model, server.url) as engine:
        stopped = await engine.generate([5], Sampling(9, stop=(" in",)))
        assert (stopped.text, stopped.finish, stopped.stop) == ("48 clips in", Finish.STOP, " in")
        assert engine.tokenizer.decode(stopped.token_ids) == "48 clips in"
        assert (await engine.generate([5], Sampling(9))).finish is Finish.LENGTH


async def test_choices_are_read_from_top_logprobs_only_where_they_are_there(tiny_model: Path) -> None:
    def by_text(body: dict[str, Any]) -> dict[str, Any]:
        top = {" in": -0.5, "\n": -1.5} if body["logprobs"] == 20 else {"\n": -1.5}
        return completed([0], logprobs={"top_logprobs": [top], "token_logprobs": [-1.5], "tokens": ["\n"]})

    async with scripted(by_text) as server, engine_on(tiny_model, server.url) as engine:
        newline, inside, other = (engine.tokenizer.encode(text)[0] for text in ("\n", " in", "z"))
        assert await engine.choice_logprobs([5], [inside, newline]) == [-0.5, -1.5]
        assert "logprob_token_ids" in server.bodies[0]
        assert "logprob_token_ids" not in server.bodies[1]
        with pytest.raises(EngineError, match=r"no probability of 'z' .*logprob_token_ids"):
            await engine.choice_logprobs([5], [inside, other])


async def test_prompts_are_scored_by_echo_where_there_is_nothing_better(tiny_model: Path) -> None:
    def echo(body: dict[str, Any]) -> dict[str, Any]:
        if not body.get("echo"):
            return completed([65])
        return completed([65], logprobs={"token_logprobs": [None, -1.0, -2.0, -3.0]})

    async with scripted(echo) as server, engine_on(tiny_model, server.url) as engine:
        assert await engine.prompt_logprobs([5, 6, 7]) == [-1.0, -2.0]
        with pytest.raises(EngineError, match="does not score prompts"):
            await engine.prompt_logprobs([5, 6, 7, 8, 9])


async def test_servers_are_asked_what_they_serve(tiny_model: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(EngineError, match="no server answers at 'http"):
        await load_engine("openai", None, base_urls=[dead], retries=0)
    with pytest.raises(EngineError, match="at least one base URL"):
        await load_engine("openai", "m")
    with pytest.raises(EngineError, match="repeated"):
        await load_engine("openai", None, base_urls=[dead, dead])
    models = [{"id": "tiny", "root": "/models/tiny", "max_model_len": 64}, {"id": "adapter", "max_model_len": 64}]
    async with scripted(completed([65]), models=models) as server:
        for model, problem in ((None, "give the model's name: .*adapter"), ("other", "'other' is not served here")):
            with pytest.raises(EngineError, match=problem):
                await load_engine("openai", model, base_urls=[server.url])
        with pytest.raises(EngineError, match="set the tokenizer"):
            await load_engine("openai", "tiny", base_urls=[server.url])
        # One of two that does not answer yet is left for later.
        async with engine_on(tiny_model, dead, server.url, model="/models/tiny", retries=0) as engine:
            assert engine.model_name == "tiny"
            assert (await engine.generate([5], Sampling(1))).token_ids == (65,)
    async with scripted(completed([65]), models=[{"id": "tiny"}]) as server:
        with pytest.raises(EngineError, match="set max_model_len"):
            await load_engine("openai", None, base_urls=[server.url], tokenizer=str(tiny_model))


@pytest.mark.vllm
async def test_a_server_that_dies_in_the_middle_loses_nothing(server_url: str, tiny_model: Path) -> None:
    port = int(server_url.split(":")[2].split("/")[0])
    gates = [Gate(port), Gate(port)]
    urls = [await gate.open() for gate in gates]
    try:
        async with engine_on(tiny_model, *urls, retries=0) as engine:
            prompts = [engine.tokenizer.encode(sentence) for sentence in SENTENCES] * 6
            alone = [await engine.generate(prompt, Sampling(80)) for prompt in prompts[: len(SENTENCES)]]
            calls = [
                asyncio.create_task(engine.generate(prompt, Sampling(80), chain=str(number)))
                for number, prompt in enumerate(prompts)
            ]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert not all(call.done() for call in calls)
            assert all(gate.connections for gate in gates)
            await gates[0].die()
            completions = await asyncio.gather(*calls)
            assert [c.text for c in completions] == [c.text for c in alone] * 6
            # Chains of the dead server live on the other one now.
            before = gates[1].connections
            await asyncio.gather(*(engine.generate(prompts[0], Sampling(2), chain=str(n)) for n in range(8)))
            assert before > 0
    finally:
        for gate in gates:
            await gate.die()


@pytest.mark.vllm
async def test_an_overflow_that_only_the_server_knows_of(server_url: str, tiny_model: Path) -> None:
    async with engine_on(tiny_model, server_url, max_model_len=4096) as engine:
        prompt = engine.tokenizer.encode(SENTENCES[0]) * 30
        assert 512 < len(prompt) < 4096
        with pytest.raises(ContextOverflowError):
            await engine.generate(prompt, Sampling(1))
        assert (await engine.generate(prompt[:20], Sampling(1))).sampled_tokens == 1
