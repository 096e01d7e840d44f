"""Linear layers with 8-bit weights and activations, for models on a CPU.

Weights are rounded once, with a scale for each output; activations at every call, with a scale for each token. Products
are exact in int32. Embeddings, norms, attention and the output layer stay in float32. On a CPU with VNNI a pass takes
less than half the time of float32; `benchmarks/implicit.py` measures the loss of accuracy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LARGEST = 127


class Int8Linear(nn.Module):
    """An 8-bit linear layer.

    Args:
        layer: the float32 layer that it replaces.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        whole = layer.weight.detach().float()  # [outputs, inputs]
        scale = _scale(whole)
        self.register_buffer("weight", (whole / scale).round().to(torch.int8).t().contiguous())
        self.register_buffer("scale", scale[:, 0])
        self.bias = layer.bias

    def forward(self, values: Tensor) -> Tensor:
        """The layer's outputs: [..., inputs] -> [..., outputs]."""
        rows = values.reshape(-1, values.shape[-1])
        scale = _scale(rows)
        sums: Tensor = torch.ops.aten._int_mm((rows / scale).round().to(torch.int8), self.weight)
        result = sums.to(values.dtype) * scale * self.scale
        if self.bias is not None:
            result = result + self.bias
        return result.reshape(*values.shape[:-1], -1)


def to_int8(model: Any) -> None:
    """Replaces the linear layers of a causal language model in place, except its output embeddings."""
    output = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child is not output:
                setattr(module, name, Int8Linear(child))


def _scale(rows: Tensor) -> Tensor:
    """The quantisation scale of each row: [rows, 1]."""
    return rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / _LARGEST
