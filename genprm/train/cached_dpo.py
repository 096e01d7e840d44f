"""TRL's DPOTrainer on rows that are ready: token ids, and what the reference says to them."""

from __future__ import annotations

from typing import Any

from trl.trainer.dpo_trainer import DPOTrainer


class CachedDPOTrainer(DPOTrainer):
    """DPOTrainer whose rows have `prompt_ids`, `chosen_ids`, `rejected_ids` and the reference's sums.

    Its loss is TRL's own. TRL would write the conversations anew by the chat template, where steps must be tokenised as
    the judge does, and would ask a reference for `ref_chosen_logps` and `ref_rejected_logps`, which are there.
    """

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset
