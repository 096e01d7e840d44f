"""The loss of TRL's SFTTrainer, computed efficiently on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.sft_trainer import SFTTrainer

from genprm.train.replay import IGNORE


class CpuSFTTrainer(SFTTrainer):
    """SFTTrainer for machines without a GPU.

    TRL's fused head keeps the logits of a large vocabulary out of a GPU's memory: it multiplies twice, in float32. Here
    the head runs once, in the compute type, only on the learned positions. The loss is the same.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy over the learned tokens, divided by their number in the whole batch."""
        if return_outputs:
            return super().compute_loss(model, inputs, True, num_items_in_batch)
        labels = inputs["labels"]
        targets = labels[:, 1:]
        places = (targets != IGNORE).any(dim=0).nonzero().flatten()
        sent = {
            name: value for name, value in inputs.items() if name in ("input_ids", "attention_mask", "position_ids")
        }
        mask = sent.get("attention_mask")
        if mask is not None and bool(mask.all()):
            del sent["attention_mask"]  # without one, attention takes its causal path
        logits = model(**sent, use_cache=False, logits_to_keep=places).logits
        wanted = targets[:, places]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        return loss / (num_items_in_batch if num_items_in_batch is not None else (wanted != IGNORE).sum().clamp(min=1))
