"""The folder that a training run leaves: a model that `genprm verify --model` and vLLM take as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from genprm.engines.tokenizer import Tokenizer
from genprm.prms.profiles import PROFILE_FILE
from genprm.runs.folder import write_atomically
from genprm.train.config import SftConfig
from genprm.train.export import Generative
from genprm.train.rows import TrainError
from genprm.train.token_rows import TokenSet

ADAPTER = "adapter"


def finish(
    trainer: Any, tokenizer: Tokenizer, profile: Generative, config: SftConfig, out: Path, data: TokenSet
) -> None:
    """Writes weights (adapters merged), tokenizer, profile, card and plot."""
    from genprm.train.sft import profile_json

    save_weights(trainer, tokenizer, out)
    write_atomically(out / PROFILE_FILE, json.dumps(profile_json(profile), indent=2) + "\n")


def save_weights(trainer: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Writes bf16 weights, configuration and tokenizer. Adapters are kept beside the merged weights."""
    import torch
    from peft import PeftModel

    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(out / ADAPTER))
        # Merged on a copy: the run's own adapters stay what they are.
        model = model.merge_and_unload()
    state = trainer.accelerator.get_state_dict(model)
    if not trainer.accelerator.is_main_process:
        return
    tied = (
        set(getattr(model, "all_tied_weights_keys", None) or ())
        if model.config.get_text_config().tie_word_embeddings
        else set()
    )
    kept = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if name not in tied
    }
    model.config.use_cache = True  # the trainer turned it off
    model.config.dtype = torch.bfloat16
    model.save_pretrained(out, state_dict=kept)
    trainer.processing_class.save_pretrained(out)
    same = Tokenizer.from_pretrained(str(out))
    if same.fingerprint != tokenizer.fingerprint:
        raise TrainError(f"the tokenizer that was saved to {out} gives texts other ids than the one trained with")


def clear_checkpoints(out: Path) -> None:
    """Deletes what only a resumed run needs."""
    from genprm.train.sft import CHECKPOINTS

    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
