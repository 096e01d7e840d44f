"""What can be set about a training run. Frozen; options, recipes, `run.json` and the Python API are made of these."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimisation(_Config):
    """How weights are changed. The defaults are GenPRM's (arXiv 2504.00891, section 4.1) where the paper says."""

    learning_rate: float = Field(2e-6, gt=0, le=1, description="Highest learning rate of AdamW.")
    batch_size: int = Field(64, ge=1, description="Sequences (with packing: packs) a step, over all devices.")
    device_batch_size: int = Field(1, ge=1, description="Of them at once on one device; the rest is accumulated.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int | None = Field(None, ge=1, description="Steps after which to stop, whatever is left of the data.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="Of the learning rate.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps over which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Of AdamW.")
    beta2: float = Field(0.999, gt=0, lt=1, description="Of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="The gradient is scaled down to this norm.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="What is computed in; weights and optimiser stay float32. auto: bfloat16 where there is a GPU.",
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations again rather than keep them.")
    seed: int = Field(0, ge=0, description="Of the order of the data and of new weights.")


class Saving(_Config):
    """When a run writes something down."""

    save_steps: int = Field(100, ge=1, description="Steps from one checkpoint to the next.")
    save_minutes: float | None = Field(None, gt=0, description="Also save a checkpoint after so many minutes.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints that are kept, the newest ones.")
    log_steps: int = Field(10, ge=1, description="Steps from one line of the log to the next.")
    report_to: Literal["none", "trackio", "wandb"] = Field("none", description="Where curves go besides log.jsonl.")
    push_to_hub: str | None = Field(None, description="Repository that the finished model is uploaded to.")


class Lora(_Config):
    """Low-rank adapters in place of all weights."""

    lora: bool = Field(False, description="Train adapters, which are also merged into the weights at the end.")
    lora_rank: int = Field(32, ge=1, description="Rank of the adapters.")
    lora_alpha: int = Field(64, ge=1, description="Adapters are scaled by alpha / rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="On the adapters' input.")
    lora_targets: str = Field("all-linear", description="Modules that get one: names with commas, or all-linear.")


class Data(_Config):
    """What is trained on."""

    max_length: int | None = Field(
        None, ge=8, description="Longest sequence in tokens; the model's context by default."
    )
    packing: bool = Field(True, description="Several sequences in one row of a batch; none sees another.")
    bad_rows: Literal["error", "skip"] = Field(
        "error",
        description="A row that cannot be trained on ends the run before it begins, or is left out and counted.",
    )
    eval_data: Path | None = Field(None, description="Held-out rows, in the form of the data set.")
    eval_steps: int = Field(100, ge=1, description="Steps from one evaluation to the next.")
    eval_limit: int | None = Field(None, ge=1, description="Rows of them that are used.")


class Judge(_Config):
    """How the trained model will be asked."""

    family: Literal["genprm", "thinkprm"] = Field("genprm", description="Layout of the critiques.")
    question: Literal["bare", "question"] = Field(
        "bare", description="Whether the first turn begins with `Question: `."
    )
    assistant_marker: bool = Field(
        True, description="Whether the turn being written opens with the template's assistant marker."
    )
    bos: int = Field(1, ge=0, description="Begin-of-sequence tokens at the start.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="That `genprm verify` uses; the family's by default."
    )


class VerifyEvaluation(_Config):
    """The finished model and its checkpoints, judged through `verify` with real code."""

    verify_data: Path | None = Field(None, description="Labelled solutions (ProcessBench rows) to verify.")
    verify_limit: int | None = Field(None, ge=1, description="Rows of them.")
    verify_steps: int | None = Field(None, ge=1, description="Also at every so many steps; at the end only by default.")
    sandbox: Literal["auto", "docker", "bubblewrap"] = Field("auto", description="Where their code runs.")


class SftConfig(Optimisation, Lora, Data, Judge, Saving, VerifyEvaluation):
    """`genprm train sft`."""

    data: str = Field(
        description="Folder of `genprm synthesize`, a JSON Lines or Parquet file, or a data set of the Hub."
    )
    model: str = Field(description="Model to start from: a folder, or a name on the Hub.")
    revision: str | None = Field(None, description="Of the model on the Hub.")

    @model_validator(mode="after")
    def _fits(self) -> SftConfig:
        if self.batch_size % self.device_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of device_batch_size {self.device_batch_size}"
            )
        return self
