"""The Trainer of transformers with a custom loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import Trainer

from genprm.train.replay import IGNORE

T = TypeVar("T")
Loss = Callable[[Any, Mapping[str, Tensor]], Tensor]
"""The sum of the losses of a batch, from the model and the collated batch."""


class LossTrainer(Trainer):
    """Minimises a custom loss: its sum over a whole step, divided by the number of its labels.

    The collator's `labels` are counted, those that are `IGNORE` left out, however a step is split over devices and
    accumulated batches. `shift_labels`, the same again, tells the Trainer that none of them is shifted.

    Args:
        loss: computes the sum of the losses of a batch.
        **parts: arguments of the Trainer.
    """

    def __init__(self, *, loss: Loss, **parts: Any) -> None:
        super().__init__(**parts)
        self._loss = loss
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss per label."""
        total = self._loss(model, inputs)
        if num_items_in_batch is None:
            return total / (inputs["labels"] != IGNORE).sum().clamp(min=1)
        # Gradients are averaged over the devices, and the number is that of all.
        shares = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total * shares / num_items_in_batch


def padded(rows: Sequence[Sequence[float]], filler: float, dtype: torch.dtype) -> Tensor:
    """Rows of different lengths as one tensor, padded on the right, where no token of a causal model looks."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=dtype)


def by_length(rows: Sequence[T], length: Callable[[T], int], size: int) -> Iterator[list[T]]:
    """Batches of rows of similar length, longest first."""
    ordered = sorted(rows, key=length, reverse=True)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def mean(values: Iterable[float]) -> float | None:
    """The mean; None without values."""
    known = list(values)
    return sum(known) / len(known) if known else None


def cross_entropy_of(odds: float, label: float) -> float:
    """Cross-entropy of the sigmoid of log-odds against a probability, in nats."""
    return max(odds, 0.0) - odds * label + math.log1p(math.exp(-abs(odds)))
