"""A model with missing weights is refused however it is loaded: scores would be random."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from genprm.engines import EngineError, load_engine
from genprm.engines.weights import check_checkpoint
from genprm.prms import PRMError, load_prm
from genprm.prms.discriminative.judge import load_discriminative
from tests.engines.conftest import need_vllm
from tests.prms import tiny_models


def checkpoint(folder: Path, kind: str = "qwen2", **config: Any) -> Path:
    size = tiny_models.save_qwen_tokenizer(folder, bos=kind == "qwen2-value")
    return tiny_models.save_model(folder, kind, size, **config)


def without(folder: Path, *names: str) -> Path:
    """Removes weights from a checkpoint."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name not in names}, folder / "model.safetensors")
    assert set(names) <= set(weights)
    return folder


@pytest.mark.parametrize(
    ("family", "missing"),
    [
        ("qwen-prm", "score.0.bias, score.0.weight, score.2.bias, score.2.weight"),
        ("skywork-prm", "v_head.summary.bias, v_head.summary.weight"),
        ("token-classification", "score.bias, score.weight"),
    ],
)
async def test_a_checkpoint_without_the_head_is_refused(tmp_path: Path, family: str, missing: str) -> None:
    with pytest.raises(EngineError, match=f"has no weights for .*{missing}"):
        await load_prm(str(checkpoint(tmp_path)), family=family, engine="transformers")


async def test_a_judge_is_no_language_model(tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path, "qwen2-prm"))
    for family in ("genprm", "implicit", "critic", "rlhflow"):
        options: dict[str, Any] = {"reference": "none"} if family == "implicit" else {}
        with pytest.raises(EngineError, match=r"no weights for lm_head\.weight"):
            await load_prm(folder, family=family, engine="transformers", sandbox=None, mode="analyze", **options)


async def test_one_missing_tensor_is_enough(tmp_path: Path) -> None:
    folder = without(checkpoint(tmp_path), "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(EngineError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"):
        await load_engine("transformers", str(folder))


async def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    names = [name for name in load_file(folder / "model.safetensors") if ".layers." in name]
    with pytest.raises(EngineError, match=rf"and {len(names) - 8} more"):
        await load_engine("transformers", str(without(folder, *names)))


async def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    engine = await load_engine("transformers", str(folder))
    await engine.close()


async def test_weights_that_are_not_used_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = checkpoint(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"value.weight": weights["lm_head.weight"][:1].clone()}, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING, "genprm"):
        engine = await load_engine("transformers", str(folder))
    await engine.close()
    assert "does not use value.weight" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "genprm"):
        engine = await load_engine("transformers", str(checkpoint(tmp_path / "whole")))
    await engine.close()
    assert not caplog.text


async def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "qwen2-tokens", num_labels=3)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "wrong", "1": "right"}
    config["label2id"] = {"wrong": 0, "right": 1}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=r"score\.bias \(\(3,\) where \(2,\) is needed\)"):
        await load_discriminative(str(folder), engine="transformers")


async def test_vllm_is_not_asked_for_a_head_that_the_configuration_does_not_name(tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path))
    for family in ("qwen-prm", "token-classification"):
        with pytest.raises(PRMError, match=r"Qwen2ForCausalLM.*no .*head"):
            await load_discriminative(folder, family=family, engine="vllm")


@pytest.mark.slow
async def test_vllm_does_not_start_on_an_incomplete_checkpoint(tmp_path: Path) -> None:
    """vLLM would fill linear layers with random numbers, so it is not started."""
    need_vllm()
    folder = without(checkpoint(tmp_path / "head", "qwen2-tokens"), "score.weight", "score.bias")
    with pytest.raises(EngineError, match=r"no weights for score\.bias, score\.weight"):
        await load_discriminative(str(folder), engine="vllm")
    folder = without(checkpoint(tmp_path / "qwen", "qwen2-prm"), "score.2.weight")
    with pytest.raises(EngineError, match=r"no weights for score\.2\.weight"):
        await load_discriminative(str(folder), engine="vllm")
    folder = without(checkpoint(tmp_path / "layer"), "model.layers.1.mlp.up_proj.weight")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(EngineError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"):
            await load_engine("vllm", str(folder))


def test_what_cannot_be_compared_is_left_to_the_engine(tmp_path: Path) -> None:
    folder = without(checkpoint(tmp_path), "lm_head.weight")
    config = json.loads((folder / "config.json").read_text())
    for change in ({"architectures": ["OnlyVllmKnows"]}, {"quantization_config": {"quant_method": "awq"}}):
        (folder / "config.json").write_text(json.dumps(config | change))
        check_checkpoint(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match="lm_head"):
        check_checkpoint(str(folder))
    check_checkpoint(str(tmp_path / "nothing"))
