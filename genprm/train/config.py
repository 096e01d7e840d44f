"""Settings of a training run: options of `genprm train`, keys of its files, fields of `run.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from genprm.config import TrackerName
from genprm.fields import Config, Option

Free = Option(free=True)
"""A setting that changes only what is written, not what is trained."""


class Optimisation(Config):
    """Optimiser settings. The defaults are GenPRM's (arXiv 2504.00891, section 4.1) as far as published."""

    learning_rate: float = Field(default=2e-6, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(default=64, ge=1, description="Rows (with packing: packs) per step, over all devices.")
    device_batch_size: int = Field(default=1, ge=1, description="Rows per pass on a device; the rest is accumulated.")
    epochs: float = Field(default=1.0, gt=0, description="Passes over the data.")
    max_steps: Annotated[int | None, Option(shown="all")] = Field(
        default=None, ge=1, description="Stop after this many steps."
    )
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="Schedule of the learning rate."
    )
    warmup: float = Field(default=0.05, ge=0, lt=1, description="Share of the steps with a rising learning rate.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Of AdamW.")
    beta2: float = Field(default=0.999, gt=0, lt=1, description="Of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="The gradient is scaled down to this norm.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="Compute type; weights stay float32. auto: bfloat16 on a GPU."
    )
    gradient_checkpointing: bool = Field(default=False, description="Recompute activations instead of storing them.")
    seed: int = Field(default=0, ge=0, description="Seed of the data order and of new weights.")


class Saving(Config):
    """Output settings."""

    out: Annotated[Path | None, Option(flags=("--out", "-o"), shown="runs/NAME-DIGEST", stored=False)] = Field(
        default=None, description="Folder of the run and of the model. The same command resumes it."
    )
    clean: Annotated[bool, Option(flags=("--clean",), stored=False)] = Field(
        default=False, description="Delete the run in the folder and start over."
    )
    as_json: Annotated[bool, Option(flags=("--json",), stored=False)] = Field(
        default=False, description="Print the result as one JSON object in place of tables."
    )
    dry_run: Annotated[bool, Option(flags=("--dry-run",), stored=False)] = Field(
        default=False, description="Print the resolved configuration and what would be loaded, then exit."
    )
    save_steps: Annotated[int, Free] = Field(default=100, ge=1, description="Steps between two checkpoints.")
    save_minutes: Annotated[float | None, Option(free=True, shown="none")] = Field(
        default=None, gt=0, description="Also save a checkpoint every this many minutes."
    )
    keep_checkpoints: Annotated[int, Free] = Field(default=2, ge=1, description="Number of checkpoints to keep.")
    log_steps: Annotated[int, Free] = Field(default=10, ge=1, description="Steps between two lines of the log.")
    track: Annotated[TrackerName, Option(stored=False)] = Field(
        default="none", description="Also log the curves to this experiment tracker."
    )
    push_to_hub: Annotated[str | None, Option(free=True, shown="none")] = Field(
        default=None, description="Repository on the Hub for the finished model."
    )


class Lora(Config):
    """Low-rank adapters instead of all weights."""

    lora: bool = Field(default=False, description="Train adapters, and merge them into the weights at the end.")
    lora_rank: int = Field(default=32, ge=1, description="Rank of the adapters.")
    lora_alpha: int = Field(default=64, ge=1, description="Adapters are scaled by alpha / rank.")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapters' input.")
    lora_targets: str = Field(
        default="all-linear", description="Modules with an adapter: comma-separated names, or all-linear."
    )


class Rows(Config):
    """Settings of the data."""

    max_length: Annotated[int | None, Option(shown="the model's context")] = Field(
        default=None, ge=8, description="Longest sequence, in tokens."
    )
    # Free: `error` ends a run before it starts, so a run that has started learns from the same rows either way.
    bad_rows: Annotated[Literal["error", "skip"], Free] = Field(
        default="error", description="A row that cannot be trained on ends the run before it starts, or is skipped."
    )
    eval_data: Annotated[Path | None, Option(free=True, shown="none")] = Field(
        default=None, description="Held-out rows in the data set's format: loss, accuracy and official F1."
    )
    eval_steps: Annotated[int, Free] = Field(default=100, ge=1, description="Steps between two evaluations.")
    eval_limit: Annotated[int | None, Option(free=True, shown="all")] = Field(
        default=None, ge=1, description="Number of held-out rows to use."
    )


class Asked(Config):
    """The profile of the trained model."""

    family: Literal["genprm", "thinkprm"] = Field(default="genprm", description="Layout of the rationales.")
    question: Literal["bare", "question"] = Field(
        default="bare", description="`question`: the first turn begins with `Question: `, as in the released data."
    )
    assistant_marker: bool = Field(
        default=True, description="The current turn starts with the template's assistant marker."
    )
    bos: Annotated[int | None, Option(shown="those of template and tokenizer")] = Field(
        default=None, ge=0, description="Begin-of-sequence tokens at the start."
    )
    seam: Literal["open", "joined", "split"] = Field(
        default="open",
        description="How a turn's opening and its continuation are tokenised (docs/configuration.md); `nano`: `split`.",
    )
    temperature: Annotated[float | None, Option(shown="the family's")] = Field(
        default=None, ge=0, le=2, description="Sampling temperature of `genprm verify` with the model; 0 is greedy."
    )


class Verified(Config):
    """Evaluation of the model and its checkpoints by `verify`, with real code."""

    verify_data: Annotated[Path | None, Option(free=True, shown="none")] = Field(
        default=None, description="Labelled solutions (ProcessBench rows) for the finished model to judge."
    )
    verify_limit: Annotated[int | None, Option(free=True, shown="all")] = Field(
        default=None, ge=1, description="Number of solutions to use."
    )
    verify_steps: Annotated[int | None, Option(free=True, shown="at the end only")] = Field(
        default=None, ge=1, description="Also judge them every this many steps."
    )
    sandbox: Annotated[Literal["auto", "docker", "bubblewrap"], Free] = Field(
        default="auto", description="Sandbox for the rationales' code."
    )


class TrainConfig(Optimisation, Lora, Rows, Saving):
    """Settings of all `genprm train` commands."""

    data: str = Field(
        default="", description="Folder of a run, a .jsonl, .json or .parquet file, or a data set of the Hub."
    )
    model: str = Field(
        default="nano",
        min_length=1,
        description="Model to start from: a folder, a name on the Hub, or a built-in one (nano, nano-policy).",
    )
    revision: Annotated[str | None, Option(shown="none")] = Field(
        default=None, description="Branch, tag or commit of the model on the Hub."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.device_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of device_batch_size {self.device_batch_size}"
            )
        return self


class SftConfig(TrainConfig, Asked, Verified):
    """`genprm train sft`."""

    packing: bool = Field(default=True, description="Pack several sequences into a row, isolated from each other.")
    from_scratch: bool = Field(
        default=False, description="Begin with random weights, by the seed, of the model's architecture."
    )


class DiscriminativeConfig(TrainConfig):
    """`genprm train discriminative`."""

    learning_rate: float = Field(default=1e-5, gt=0, description="Peak learning rate of AdamW.")
    layout: Literal["auto", "qwen-prm", "token-classification"] = Field(
        default="auto",
        description="Layout of solutions and the head: Qwen2.5-Math-PRM's, or TRL's. auto: the "
        "first for Qwen2 models whose tokenizer has `<extra_0>`.",
    )
    separator: str = Field(default="\n", min_length=1, description="Text after each step; layout token-classification.")
    labels: Literal["hard", "value", "progress"] = Field(
        default="hard",
        description="Labels from `genprm label`: right or wrong, or soft: the Monte Carlo value after the step, or its "
        "relative progress up to 1.",
    )


class ImplicitConfig(TrainConfig):
    """`genprm train implicit`. The defaults are those of ImplicitPRM's scripts (arXiv 2412.01981)."""

    model: str = Field(
        default="nano-policy",
        min_length=1,
        description="Model to start from: a folder, a name on the Hub, or a built-in one (nano, nano-policy).",
    )
    learning_rate: float = Field(default=5e-7, gt=0, description="Peak learning rate of AdamW.")
    beta2: float = Field(default=0.95, gt=0, lt=1, description="Of AdamW.")
    objective: Literal["ce", "dpo"] = Field(
        default="ce", description="Cross-entropy on each response's label, or DPO on pairs of a right and a wrong one."
    )
    beta: float = Field(default=0.05, gt=0, description="Scale of the log-ratio; the trained model keeps it.")
    pairs: Annotated[int | None, Option(shown="all")] = Field(
        default=None, ge=1, description="Most pairs per problem, drawn at random; objective dpo."
    )
    reference: Annotated[str | None, Option(shown="the model to start from")] = Field(
        default=None, description="Reference model of the log-ratios."
    )
    reference_revision: Annotated[str | None, Option(shown="none")] = Field(
        default=None, description="Branch, tag or commit of the reference on the Hub."
    )
    reference_dtype: str = Field(default="auto", description="Type of the reference's weights, as in scoring.")
    reference_cache: Annotated[str, Option(metavar="auto|none|FOLDER", free=True)] = Field(
        default="auto", description="Folder for its log-probabilities; `auto` is the user's cache folder."
    )
    engine: Annotated[Literal["auto", "transformers", "vllm"], Free] = Field(
        default="auto", description="Engine of the reference."
    )
