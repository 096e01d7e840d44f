"""The folder of a finished training run: a model for `genprm verify --model` and vLLM."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genprm.engines.tokenizer import Tokenizer
from genprm.prms.profiles import PROFILE_FILE
from genprm.runs.folder import write_atomically
from genprm.runs.provenance import package_version, weights_of
from genprm.train.callbacks import CHECKPOINTS, LOG, read_log
from genprm.train.config import TrainConfig
from genprm.train.rows import TrainError

ADAPTER, CURVES, METRICS = "adapter", "curves.png", "metrics.json"


@dataclass(frozen=True, slots=True)
class Trained:
    """The results of a run."""

    steps: int
    loss: float | None
    """Mean training loss of the last five lines of the log; None without any."""
    metrics: Mapping[str, float]
    """Metrics of the last evaluations: `eval_...` on held-out rows, `verify_...` with real code."""


@dataclass(frozen=True, slots=True)
class Product:
    """Contents of a model's folder, besides settings and curves."""

    command: str
    """The command that made it, such as `train sft`."""
    layout: str
    """What was trained, for the card."""
    profile: Mapping[str, Any]
    """Content of `genprm.json`: its family and profile."""
    data: Mapping[str, int]
    """Counts of the training data."""
    measured: str
    """What the metrics are, for the card."""
    remark: str | None
    """A warning for the card."""
    verify: Callable[[Path], Mapping[str, float]] | None = None
    """Evaluates the finished folder."""


def finish(trainer: Any, tokenizer: Tokenizer, config: TrainConfig, out: Path, product: Product) -> Trained:
    """Writes weights (adapters merged), tokenizer, profile, metrics, plot and card, and verifies the result."""
    save_weights(trainer, tokenizer, out)
    write_profile(product.profile, out)
    log = read_log(out / LOG)
    metrics: dict[str, float] = {}
    for line in log:
        metrics |= {name: value for name, value in line.items() if name.startswith(("eval_", "verify_"))}
    if product.verify is not None:
        metrics |= product.verify(out)
    losses = [line["loss"] for line in log if "loss" in line][-5:]
    trained = Trained(trainer.state.global_step, sum(losses) / len(losses) if losses else None, metrics)
    if not trainer.accelerator.is_main_process:
        return trained
    seconds = log[-1]["seconds"] if log else None
    written = {**asdict(trained), "seconds": seconds, "data": dict(product.data)}
    write_atomically(out / METRICS, json.dumps(written, indent=2) + "\n")
    draw_curves(log, out / CURVES)
    write_atomically(out / "README.md", card(config, trained, product))
    if config.push_to_hub is not None:
        push(out, config.push_to_hub)
    return trained


def save_weights(trainer: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Writes bf16 weights, configuration and tokenizer. Adapters are kept beside the merged weights."""
    import copy

    import torch
    from peft import PeftModel

    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(out / ADAPTER))
        # Merged on a copy: the run's own adapters continue training.
        model = copy.deepcopy(model).merge_and_unload()
    state: dict[str, Any] = trainer.accelerator.get_state_dict(model)
    if not trainer.accelerator.is_main_process:
        return
    ties: dict[str, str] | None = getattr(model, "all_tied_weights_keys", None)
    tied = set(ties or ()) if model.config.get_text_config().tie_word_embeddings else set[str]()
    kept = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if name not in tied
    }
    config = copy.deepcopy(model.config)
    config.use_cache, config.dtype = True, torch.bfloat16  # the trainer turned the cache off
    model.save_pretrained(out, state_dict=kept)
    config.architectures = model.config.architectures
    config.save_pretrained(out)
    trainer.processing_class.save_pretrained(out)
    same = Tokenizer.from_pretrained(str(out))
    if same.fingerprint != tokenizer.fingerprint:
        raise TrainError(f"the tokenizer saved to {out} encodes text differently from the one used in training")


def write_profile(profile: Mapping[str, Any], out: Path) -> None:
    """Writes `genprm.json`, the model's profile for judges."""
    write_atomically(out / PROFILE_FILE, json.dumps(profile, indent=2) + "\n")


_SCORES = ("eval_verdict_accuracy", "eval_step_accuracy", "eval_accuracy", "eval_f1", "verify_f1")


def draw_curves(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and scores over the steps, as a picture."""
    from matplotlib.figure import Figure

    panels = [("loss", ("loss", "eval_loss")), ("score", _SCORES)]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for place, (title, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        for name in names:
            points = [(line["step"], line[name]) for line in log if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set_xlabel("step")
        axes.set_ylabel(title)
        if place == 2:
            axes.set_ylim(0, 1)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def card(config: TrainConfig, trained: Trained, product: Product) -> str:
    """The model's README: base model, training and metrics."""
    settings = {name: value for name, value in config.model_dump(mode="json").items() if value is not None}
    lines = ["---", "library_name: transformers", "tags: [process-reward-model, genprm]"]
    if not Path(config.model).exists():
        lines.append(f"base_model: {config.model}")
    lines += ["---", "", f"# A process reward model made from {Path(config.model).name}", ""]
    how = "LoRA adapters, merged (the adapters alone stand in `adapter/`)" if config.lora else "all weights"
    lines += [
        f"Trained by `genprm {product.command}`: {how}, {product.layout}. `genprm.json` says how it is asked.",
        "",
    ]
    lines += ["    genprm verify solutions.jsonl --model FOLDER", "", "## Data", ""]
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in product.data.items())
    lines += [f"{config.data}: {counts}"]
    lines += ["", "## Measured", "", "| | |", "|---|---|", f"| steps | {trained.steps:,} |"]
    if trained.loss is not None:
        lines.append(f"| training loss, last lines of the log | {trained.loss:.4f} |")
    lines += [f"| {name} | {value:.4f} |" for name, value in sorted(trained.metrics.items())]
    lines += ["", product.measured, ""]
    if product.remark is not None:
        lines += [f"**{product.remark}**", ""]
    lines += [f"![curves]({CURVES})", "", "## Settings", "", "```json"]
    versions = {name: package_version(name) for name in ("genprm", "trl", "transformers", "torch", "peft")}
    base = None if getattr(config, "from_scratch", False) else weights_of(config.model, config.revision)
    lines += [json.dumps({"settings": settings, "base_weights": base, "versions": versions}, indent=2), "```", ""]
    return "\n".join(lines)


def push(folder: Path, repository: str) -> None:
    """Uploads a model's folder to the Hub, with the token that the library finds.

    Raises:
        TrainError: the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            folder_path=folder, repo_id=repository, ignore_patterns=[f"{CHECKPOINTS}/*", ".*", "*.jsonl", "*.log"]
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise TrainError(f"cannot push to {repository!r}: {error}") from error
