"""The converted SmolLM2 is the model: it answers, and its folder is a plain one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genprm.engines import load_engine
from genprm.engines.base import Sampling


@pytest.mark.slow
async def test_it_answers_in_its_own_chat_template(smollm2: Path) -> None:
    engine = await load_engine("transformers", str(smollm2))
    try:
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        done = await engine.generate(engine.tokenizer.encode_chat(messages, add_generation_prompt=True), Sampling(16))
    finally:
        await engine.close()
    assert done.text == "The capital of France is Paris."


def test_the_folder_is_a_plain_model(smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert sum(file.stat().st_size for file in smollm2.glob("*.safetensors")) == pytest.approx(269e6, rel=0.02)
    assert (
        "chat_template" in (smollm2 / "tokenizer_config.json").read_text() or (smollm2 / "chat_template.jinja").exists()
    )
