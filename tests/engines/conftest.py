"""A tiny model with a real tokenizer, and the three engines on it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from genprm.engines import Engine, EngineError, Sampling, load_engine
from tests.conftest import free_port

SENTENCES = [
    "Natalia sold 48 clips in April, and then she sold half as many clips in May.",
    "Let's use python code to find any potential error:\n```python\nprint(48 / 2)\n```\n",
    "[Code Output]\n\n```\n24.0\n```\n",
    "<analyze>\nLet's analyze the Paragraph 1 step by step: 48 + 24 = 72 is right.\n</analyze>\n",
    "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n<output>\n**Judgement**: $\\boxed{No}$\n</output>\n",
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
]
BOS, USER, ASSISTANT, EOS = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save_tiny_tokenizer(folder: Path) -> int:
    """A byte-level BPE with DeepSeek's control tokens, some not flagged as special, as there; returns its size."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=440, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([BOS, EOS])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in (USER, ASSISTANT, "</think>")])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return backend.get_vocab_size(with_added_tokens=True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised Qwen2 whose greedy text does not repeat one token."""
    folder = tmp_path_factory.mktemp("tiny-model")
    vocab_size = save_tiny_tokenizer(folder)
    torch.manual_seed(7)
    config = transformers.Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        # Weights this large make the next token depend on the whole context.
        initializer_range=0.3,
        tie_word_embeddings=False,
        dtype="float32",
    )
    model = transformers.Qwen2ForCausalLM(config)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    # Keeps its text readable: unprintable bytes get a logit of 0, others one far from 0.
    pieces = [tokenizer.decode([token]) for token in range(vocab_size)]
    with torch.no_grad():
        for token, piece in enumerate(pieces):
            if not (piece.isascii() and (piece.isprintable() or piece.isspace())):
                model.lm_head.weight[token] = 0.0
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    model.save_pretrained(folder)
    return folder


VLLM_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def need_vllm() -> None:
    """Skips without vLLM; in CI that is a failure."""
    if importlib.util.find_spec("vllm") is None:
        (pytest.fail if os.environ.get("GENPRM_CI") == "1" else pytest.skip)("vLLM is not installed")


@contextlib.contextmanager
def vllm_server(model: Path, log: Path, *flags: str) -> Iterator[str]:
    """Serves a model with vLLM for the duration of a block; yields its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--block-size", "32"]
    command += ["--enforce-eager", "--max-num-seqs", "16", *flags]
    # On a CPU, a seeded request whose prompt is computed in parts ends the server.
    command += ["--no-enable-chunked-prefill"]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | VLLM_ENV)
    try:
        deadline = time.monotonic() + 600
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        ended = server.poll()
        server.terminate()
        server.wait(30)
    if ended is not None:
        raise RuntimeError(f"the server ended with {ended} while it was needed:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def server_url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real vLLM server with the tiny model."""
    need_vllm()
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with vllm_server(tiny_model, log, "--enable-prompt-tokens-details") as url:
        yield url


@contextlib.asynccontextmanager
async def opened(engine: Engine) -> AsyncIterator[Engine]:
    """Closes an engine at the end, with a call in flight: that one and later ones must fail with an `EngineError`."""
    try:
        yield engine
    finally:
        prompt = engine.tokenizer.encode("Natalia sold")
        pending = asyncio.create_task(engine.generate(prompt, Sampling(400, temperature=1.0, seed=1)))
        await asyncio.sleep(0.02)
        await engine.close()
        await engine.close()
        for call in (pending, engine.generate(prompt, Sampling(1))):
            with pytest.raises(EngineError, match="closed"):
                await asyncio.wait_for(call, 20)


@pytest_asyncio.fixture(
    scope="session",
    loop_scope="session",
    params=[
        "transformers",
        pytest.param("vllm", marks=pytest.mark.vllm),
        pytest.param("openai", marks=pytest.mark.vllm),
    ],
)
async def engine(request: pytest.FixtureRequest, tiny_model: Path) -> AsyncIterator[Engine]:
    """Each of the three engines on the tiny model."""
    if request.param == "openai":
        url = request.getfixturevalue("server_url")
        opening = load_engine("openai", None, base_urls=[url], max_num_seqs=16)
    elif request.param == "vllm":
        need_vllm()
        os.environ.update(VLLM_ENV)
        opening = load_engine("vllm", str(tiny_model), max_num_seqs=16)
    else:
        opening = load_engine("transformers", str(tiny_model), max_num_seqs=16)
    with warnings.catch_warnings():
        # Warnings of vLLM and its libraries at their start are not ours to fix.
        warnings.simplefilter("ignore")
        ready = await opening
    async with opened(ready):
        yield ready
