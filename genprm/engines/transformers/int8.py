"""Linear layers with weights and activations of eight bits, for models on a processor.

Weights are rounded once, a scale for each output; activations at every call, a scale for each token. Products are exact
in int32. Embeddings, norms, attention and the output layer stay in float32. On a processor with VNNI a pass takes less
than half of the time in float32; what it costs in accuracy is measured in `benchmarks/implicit.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer in eight bits.

    Args:
        layer: the layer that it stands for, in float32.
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
    """Replaces the linear layers of a causal language model, but for its output embeddings, in place."""
    output = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child is not output:
                setattr(module, name, Int8Linear(child))


def _scale(rows: Tensor) -> Tensor:
    """What one step of eight bits is worth in each row: [rows, 1]."""
    return rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / _LARGEST
