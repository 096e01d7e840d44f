"""TRL's DPOTrainer on prepared rows: token ids and the reference's log-probabilities."""

from __future__ import annotations

from typing import Any

from trl.trainer.dpo_trainer import DPOTrainer


class CachedDPOTrainer(DPOTrainer):
    """DPOTrainer whose rows have `prompt_ids`, `chosen_ids`, `rejected_ids` and the reference's sums.

    Its loss is TRL's own. TRL would render the conversations by the chat template, but steps must be tokenised as the
    judge does; and it would compute `ref_chosen_logps` and `ref_rejected_logps`, which exist already.
    """

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset
