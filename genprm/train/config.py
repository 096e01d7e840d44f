"""What can be set about a training run: the options of `genprm train`, the keys of its files, what `run.json` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from genprm.config import TrackerName
from genprm.fields import Config, Option

Free = Option(free=True)
"""A setting that changes what is written down, and not what is trained."""


class Optimisation(Config):
    """How weights are changed. The defaults are GenPRM's (arXiv 2504.00891, section 4.1) where the paper says."""

    learning_rate: float = Field(default=2e-6, gt=0, description="Highest learning rate of AdamW.")
    batch_size: int = Field(default=64, ge=1, description="Rows (with packing: packs) a step, over all devices.")
    device_batch_size: int = Field(default=1, ge=1, description="Rows at once on a device; the rest is accumulated.")
    epochs: float = Field(default=1.0, gt=0, description="Passes over the data.")
    max_steps: Annotated[int | None, Option(shown="all")] = Field(
        default=None, ge=1, description="Steps after which to stop, whatever is left of the data."
    )
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="Of the learning rate."
    )
    warmup: float = Field(default=0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Of AdamW.")
    beta2: float = Field(default=0.999, gt=0, lt=1, description="Of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="The gradient is scaled down to this norm.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="What is computed in; weights stay float32. auto: bfloat16 on a GPU."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations a second time rather than keep them."
    )
    seed: int = Field(default=0, ge=0, description="Of the order of the data and of new weights.")


class Saving(Config):
    """Where a run writes, and when."""

    out: Annotated[Path | None, Option(flags=("--out", "-o"), shown="runs/NAME-DIGEST", stored=False)] = Field(
        default=None, description="Folder of the run and of the model. The same command resumes it."
    )
    clean: Annotated[bool, Option(flags=("--clean",), stored=False)] = Field(
        default=False, description="Delete the run that is in the folder, and start over."
    )
    save_steps: Annotated[int, Free] = Field(default=100, ge=1, description="Steps between two checkpoints.")
    save_minutes: Annotated[float | None, Option(free=True, shown="none")] = Field(
        default=None, gt=0, description="Also save a checkpoint after so many minutes."
    )
    keep_checkpoints: Annotated[int, Free] = Field(default=2, ge=1, description="Checkpoints that are kept.")
    log_steps: Annotated[int, Free] = Field(default=10, ge=1, description="Steps between two lines of the log.")
    report_to: Annotated[TrackerName, Option(flags=("--track", "--report-to"), free=True)] = Field(
        default="none", description="An experiment tracker for the curves, besides log.jsonl."
    )
    push_to_hub: Annotated[str | None, Option(free=True, shown="none")] = Field(
        default=None, description="Repository on the Hub that the finished model is uploaded to."
    )


class Lora(Config):
    """Low-rank adapters in place of all weights."""

    lora: bool = Field(default=False, description="Train adapters; at the end they are also merged into the weights.")
    lora_rank: int = Field(default=32, ge=1, description="Rank of the adapters.")
    lora_alpha: int = Field(default=64, ge=1, description="Adapters are scaled by alpha / rank.")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="On the adapters' input.")
    lora_targets: str = Field(
        default="all-linear", description="Modules that get an adapter: names with commas, or all-linear."
    )


class Rows(Config):
    """What is trained on."""

    max_length: Annotated[int | None, Option(shown="the model's context")] = Field(
        default=None, ge=8, description="Longest sequence, in tokens."
    )
    bad_rows: Literal["error", "skip"] = Field(
        default="error", description="A row that cannot be trained on ends the run before it begins, or is left out."
    )
    eval_data: Annotated[Path | None, Option(free=True, shown="none")] = Field(
        default=None, description="Held-out rows, in the form of the data set: loss, accuracy and official F1."
    )
    eval_steps: Annotated[int, Free] = Field(default=100, ge=1, description="Steps between two evaluations.")
    eval_limit: Annotated[int | None, Option(free=True, shown="all")] = Field(
        default=None, ge=1, description="Held-out rows that are used."
    )


class Asked(Config):
    """How the trained model will be asked."""

    family: Literal["genprm", "thinkprm"] = Field(default="genprm", description="Layout of the critiques.")
    question: Literal["bare", "question"] = Field(
        default="bare", description="`question`: the first turn begins with `Question: `, as in the released data."
    )
    assistant_marker: bool = Field(
        default=True, description="The turn that is being written opens with the template's assistant marker."
    )
    bos: Annotated[int | None, Option(shown="as the template and the tokenizer have it")] = Field(
        default=None, ge=0, description="Begin-of-sequence tokens at the start."
    )
    seam: Literal["open", "joined", "split"] = Field(
        default="open",
        description="How the opening of a turn meets what follows: see docs/configuration.md; `nano` has `split`.",
    )
    temperature: Annotated[float | None, Option(shown="the family's")] = Field(
        default=None, ge=0, le=2, description="What `genprm verify` will sample with; 0 is greedy."
    )


class Verified(Config):
    """The model and its checkpoints judged through `verify`, with real code."""

    verify_data: Annotated[Path | None, Option(free=True, shown="none")] = Field(
        default=None, description="Labelled solutions (ProcessBench rows) that the finished model judges."
    )
    verify_limit: Annotated[int | None, Option(free=True, shown="all")] = Field(
        default=None, ge=1, description="Solutions that are used."
    )
    verify_steps: Annotated[int | None, Option(free=True, shown="at the end only")] = Field(
        default=None, ge=1, description="Judge them also after every so many steps."
    )
    sandbox: Annotated[Literal["auto", "docker", "bubblewrap"], Free] = Field(
        default="auto", description="Where the code of the critiques runs."
    )


class TrainConfig(Optimisation, Lora, Rows, Saving):
    """What every `genprm train ...` takes."""

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
                f"batch_size {self.batch_size} is no multiple of device_batch_size {self.device_batch_size}"
            )
        return self


class SftConfig(TrainConfig, Asked, Verified):
    """`genprm train sft`."""

    packing: bool = Field(default=True, description="Several sequences in one row of a batch; none sees another.")
    from_scratch: bool = Field(
        default=False, description="Begin with random weights, by the seed, of the model's architecture."
    )


class DiscriminativeConfig(TrainConfig):
    """`genprm train discriminative`."""

    learning_rate: float = Field(default=1e-5, gt=0, description="Highest learning rate of AdamW.")
    layout: Literal["auto", "qwen-prm", "token-classification"] = Field(
        default="auto",
        description="How a solution is written and what the head is: that of Qwen2.5-Math-PRM, or TRL's. auto: the "
        "first for Qwen2 models whose tokenizer has `<extra_0>`.",
    )
    separator: str = Field(
        default="\n", min_length=1, description="Written after each step; layout token-classification."
    )
    labels: Literal["hard", "value", "progress"] = Field(
        default="hard",
        description="Of rows of `genprm label`: right or wrong, or soft: the Monte Carlo value after the step, or its "
        "relative progress up to 1.",
    )


class ImplicitConfig(TrainConfig):
    """`genprm train implicit`. The defaults are those of ImplicitPRM's scripts (arXiv 2412.01981)."""

    model: str = Field(
        default="nano-policy",
        min_length=1,
        description="Model to start from: a folder, a name on the Hub, or a built-in one (nano, nano-policy).",
    )
    learning_rate: float = Field(default=5e-7, gt=0, description="Highest learning rate of AdamW.")
    beta2: float = Field(default=0.95, gt=0, lt=1, description="Of AdamW.")
    objective: Literal["ce", "dpo"] = Field(
        default="ce", description="Cross-entropy on each response's label, or DPO on pairs of a right and a wrong one."
    )
    beta: float = Field(default=0.05, gt=0, description="Scale of the log-ratio; the trained model keeps it.")
    pairs: Annotated[int | None, Option(shown="all")] = Field(
        default=None, ge=1, description="Most pairs a problem, drawn at random; objective dpo."
    )
    reference: Annotated[str | None, Option(shown="the model to start from")] = Field(
        default=None, description="Model that log-ratios are taken to."
    )
    reference_revision: Annotated[str | None, Option(shown="none")] = Field(
        default=None, description="Its branch, tag or commit on the Hub."
    )
    reference_dtype: str = Field(default="auto", description="Type of its weights, as in scoring.")
    reference_cache: Annotated[str, Option(metavar="auto|none|FOLDER", free=True)] = Field(
        default="auto", description="Where they are kept, for scoring too; `auto` is the user's cache folder."
    )
    engine: Annotated[Literal["auto", "transformers", "vllm"], Free] = Field(
        default="auto", description="What computes its log-probabilities."
    )
