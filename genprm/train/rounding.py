"""What is left of a training's changes once its float32 weights are written as bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SAMPLE = 4096
"""Weights of each tensor that are looked at, about."""


class Rounding:
    """Remembers some weights of a model from before the training.

    Args:
        model: whose weights are whole on this device.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = self._weights()

    def kept(self) -> float | None:
        """Share of the changed weights that differ from their old value in bfloat16 too; None if none has changed."""
        changed = kept = 0
        for name, after in self._weights().items():
            before = self._before[name]
            changed += int((after != before).sum())
            kept += int((after.bfloat16() != before.bfloat16()).sum())
        return kept / changed if changed else None

    def remark(self) -> str | None:
        """A warning where most changes are lost."""
        if (kept := self.kept()) is None or kept >= 0.5:
            return None
        return (
            f"Only {kept:.1%} of the changed weights still differ once rounded to bfloat16, as they are written: the "
            "folder's model is nearer to the one it was made from than `eval_...` shows, which is of the unrounded "
            "weights. Train longer, or with a larger --learning-rate."
        )

    def _weights(self) -> dict[str, Tensor]:
        return {name: _some(one) for name, one in self._model.named_parameters() if one.requires_grad}


def _some(weights: Tensor) -> Tensor:
    flat = weights.detach().flatten()
    # An odd stride, so that it is not one column of a matrix.
    return torch.clone(flat[:: len(flat) // SAMPLE | 1]).float().cpu()
