"""Linear layers in eight bits: exact in what they claim to compute, and near to float32 on trained weights."""

import pytest
import torch
from torch import nn

from genprm.engines import BUILT_IN, EngineError, Sampling, load_engine
from genprm.engines.transformers.engine import TransformersEngine
from genprm.engines.transformers.int8 import Int8Linear


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "bias"), [(1, 64, 32, True), (5, 65, 3, False), (40, 7, 129, True)]
)
def test_a_layer_computes_the_rounded_product(rows, inputs, outputs, bias):
    torch.manual_seed(rows)
    layer = nn.Linear(inputs, outputs, bias=bias)
    values = torch.randn(2, rows, inputs) * 3
    weights = layer.weight.double()
    step = weights.abs().amax(1, keepdim=True) / 127
    per_token = values.double().abs().amax(-1, keepdim=True) / 127
    expected = ((values / per_token).round() * per_token) @ ((weights / step).round() * step).T
    if bias:
        expected += layer.bias.double()
    with torch.no_grad():
        found = Int8Linear(layer)(values)
    assert found.shape == (2, rows, outputs)
    assert torch.allclose(found.double(), expected.detach(), atol=1e-3)
    # Not the float32 layer under another name.
    assert not torch.allclose(found, layer(values), atol=1e-4)


def test_a_row_of_zeros_stays_zero():
    assert Int8Linear(nn.Linear(8, 4, bias=False))(torch.zeros(3, 8)).abs().max() == 0


async def test_the_built_in_model_in_eight_bits():
    text = "Question: 3 apples and 4 apples.\n\nStep 1: 3 + 4 = 7 apples.\n\nStep 2: 7 * 2 = 14 apples."
    found = {}
    for dtype in ("float32", "int8"):
        engine = await load_engine("transformers", str(BUILT_IN["nano"]), dtype=dtype)
        assert isinstance(engine, TransformersEngine)
        try:
            ids = engine.tokenizer.encode(text)
            found[dtype] = torch.tensor(await engine.prompt_logprobs(ids))
            layers = [type(module).__name__ for module in engine.model.modules()]
            assert layers.count("Int8Linear") == (35 if dtype == "int8" else 0)  # seven in each of five blocks
            assert type(engine.model.get_output_embeddings()) is nn.Linear
            assert (await engine.generate(ids, Sampling(4))).token_ids
        finally:
            await engine.close()
    error = (found["int8"] - found["float32"]).abs()
    assert 0 < error.mean() < 0.1
    assert error.max() < 1.0


async def test_eight_bits_are_for_this_engine():
    with pytest.raises(EngineError, match="int8 weights are for the transformers engine"):
        await load_engine("vllm", "some/model", dtype="int8")
    with pytest.raises(EngineError, match="int8 weights are for models on the CPU, not on 'meta'"):
        await load_engine("transformers", str(BUILT_IN["nano"]), dtype="int8", device="meta")
