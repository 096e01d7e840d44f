"""Discriminative PRMs: a classification head on the ends of steps, trained with the Trainer of transformers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm.benchmarks.processbench import f1_score
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.discriminative.formats import FORMATS, DiscriminativeProfile, SolutionWriter
from genprm.train.config import DiscriminativeConfig
from genprm.train.replay import IGNORE
from genprm.train.rows import Collected, TrainError, read_source
from genprm.train.running import (
    Note,
    Running,
    Say,
    autocast_of,
    check_devices,
    check_installed,
    load_network,
    load_tokenizers,
    longest_of,
    lora_config,
    training_arguments,
)
from genprm.train.step_rows import StepRow, step_rows

if TYPE_CHECKING:
    from torch import Tensor

    from genprm.train.finished import Trained

QWEN, TRL = "qwen-prm", "token-classification"
_TAG = "<extra_0>"


def train_discriminative(
    config: DiscriminativeConfig, out: Path, *, say: Say | None = None, note: Note | None = None
) -> Trained:
    """Trains, evaluates and writes the model's folder. Resumes from the newest checkpoint in `out`, if any.

    Args:
        config: of the run.
        out: the folder, which gets weights, tokenizer, `genprm.json` and the model card.
        say: prints progress lines.
        note: gets the numbers of every line of the log, such as an experiment tracker.

    Raises:
        TrainError: the data, the model or a checkpoint cannot be used.
        PRMError: the tokenizer does not fit the layout.
        EngineError: there is no tokenizer, or it has no chat template and the layout needs one.
        Stopped: a signal ended the run; it can be resumed.
    """
    check_installed()
    check_devices()
    import transformers
    from transformers import TrainingArguments

    from genprm.prms.forward import Qwen2ForProcessRewardModel
    from genprm.train.callbacks import CHECKPOINTS
    from genprm.train.finished import Product, finish
    from genprm.train.own_loss import LossTrainer

    hf_tokenizer, tokenizer = load_tokenizers(config)
    layout = layout_of(config, tokenizer)
    profile = DiscriminativeProfile(separator=config.separator)
    writer = SolutionWriter(FORMATS[layout], tokenizer, profile)
    kind = Qwen2ForProcessRewardModel if layout == QWEN else transformers.AutoModelForTokenClassification
    model = load_network(config, kind, num_labels=2)
    data, held_out = prepare(config, writer, longest_of(config, model.config))
    steps = sum(label != IGNORE for row in data.made for label in row.labels)
    tokens = sum(len(row.input_ids) for row in data.made)
    if say is not None:
        say(f"{len(data.made):,} solutions, {steps:,} labelled steps, {tokens:,} tokens, layout {layout}{data.also}")
    arguments = TrainingArguments(
        output_dir=str(out / CHECKPOINTS), remove_unused_columns=False, **training_arguments(config)
    )
    autocast = autocast_of(arguments)
    running = Running(config, out, say, note)

    def evaluated(_: int) -> Mapping[str, float]:
        assert held_out is not None
        return evaluate(trainer.model, held_out.made, config.device_batch_size, autocast)

    if held_out is not None:
        running.every(config.eval_steps, evaluated, begin=True)
    if config.lora:
        from peft import get_peft_model

        # The head is new: it is trained as a whole, and stored with the adapters.
        adapters = lora_config(config, exclude_modules=r".*\bscore\b.*", modules_to_save=["score"])
        model = get_peft_model(model, adapters)
    trainer = LossTrainer(
        loss=step_loss,
        model=model,
        args=arguments,
        train_dataset=[asdict(row) for row in data.made],
        data_collator=collate,
        processing_class=hf_tokenizer,
        callbacks=running.callbacks,
    )
    running.train(trainer)
    product = Product(
        command="train discriminative",
        layout=f"a head on the ends of steps in the layout {layout}",
        profile={"family": layout, "profile": asdict(profile)},
        data={"solutions": len(data.made), "steps": steps, "tokens": tokens, "left_out": len(data.left_out)},
        measured="`eval_...` is measured on held-out rows: loss and accuracy of their labelled steps, and the official "
        "F1 of ProcessBench with the first step below 0.5 as the prediction.",
        remark=running.remark,
    )
    return finish(trainer, tokenizer, config, out, product)


def layout_of(config: DiscriminativeConfig, tokenizer: Tokenizer) -> str:
    """Resolves the layout.

    Raises:
        TrainError: the model does not support the requested one.
    """
    from genprm.prms.hub import read_config
    from genprm.prms.load import model_path

    kind = read_config(model_path(config.model), config.revision).get("model_type")
    tagged = len(tokenizer.encode(_TAG, special=True)) == 1
    if config.layout == "auto":
        return QWEN if kind == "qwen2" and tagged else TRL
    if config.layout == QWEN and not (kind == "qwen2" and tagged):
        lacks = f"its type is {kind!r}" if kind != "qwen2" else f"its tokenizer has no {_TAG}"
        raise TrainError(
            f"--layout {QWEN} is for Qwen2 models with a token {_TAG}, and {config.model!r} is not one: {lacks}. "
            f"Use --layout {TRL}."
        )
    return config.layout


def prepare(
    config: DiscriminativeConfig, writer: SolutionWriter, longest: int
) -> tuple[Collected[StepRow], Collected[StepRow] | None]:
    """Prepares the data, and the held-out rows if any.

    Args:
        config: of the run.
        writer: of the layout.
        longest: most tokens of a sequence.

    Raises:
        TrainError: a row cannot be trained on.
    """

    async def both() -> tuple[Collected[StepRow], Collected[StepRow] | None]:
        how: Any = {"max_length": longest, "bad_rows": config.bad_rows}
        data = await step_rows(read_source(config.data), writer, config.labels, **how)
        if config.eval_data is None:
            return data, None
        rows = read_source(config.eval_data)
        return data, await step_rows(rows, writer, config.labels, limit=config.eval_limit, **how)

    return asyncio.run(both())


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Rows as a batch: `input_ids` and `labels`, padded on the right."""
    import torch

    from genprm.train.own_loss import padded

    labels = padded([row["labels"] for row in rows], IGNORE, torch.float32)
    ids = padded([row["input_ids"] for row in rows], 0, torch.long)
    return {"input_ids": ids, "labels": labels, "shift_labels": labels}


def step_loss(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of the two classes against P(right), summed over the labelled steps of a batch."""
    import torch

    # No attention mask: the padding is on the right, where no token of a causal model sees it.
    logits = model(input_ids=inputs["input_ids"], use_cache=False).logits.float()
    at = inputs["labels"] != IGNORE
    odds = (logits[..., 1] - logits[..., 0])[at]
    return torch.nn.functional.binary_cross_entropy_with_logits(odds, inputs["labels"][at], reduction="sum")


def evaluate(
    model: Any, rows: Sequence[StepRow], size: int, autocast: Callable[[], Any] | None = None
) -> dict[str, float]:
    """Loss and accuracy of the labelled steps, and the official F1.

    Args:
        model: with two classes per token, on its device.
        rows: held-out rows.
        size: solutions per batch.
        autocast: sets the compute type; None computes in the weights' type.
    """
    import contextlib

    import torch

    from genprm.train.own_loss import by_length, cross_entropy_of, mean

    training = model.training
    model.eval()
    losses: list[float] = []
    right: list[float] = []
    guesses: list[int] = []
    truths: list[int] = []
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            for batch in by_length(rows, lambda row: len(row.input_ids), size):
                inputs = collate([asdict(row) for row in batch])
                with autocast() if autocast is not None else contextlib.nullcontext():
                    logits = model(input_ids=inputs["input_ids"].to(device), use_cache=False).logits.float().cpu()
                odds = (logits[..., 1] - logits[..., 0]).tolist()
                for row, scores in zip(batch, odds, strict=True):
                    for position in row.positions:
                        if (label := row.labels[position]) != IGNORE:
                            losses.append(cross_entropy_of(scores[position], label))
                            right.append(float((scores[position] >= 0) == (label >= 0.5)))
                    if row.first_error is not None:
                        wrong = (step for step, position in enumerate(row.positions) if scores[position] < 0)
                        guesses.append(next(wrong, -1))
                        truths.append(row.first_error)
    finally:
        model.train(training)
    score = f1_score(guesses, truths)
    found = {
        "eval_loss": mean(losses),
        "eval_step_accuracy": mean(right),
        "eval_f1": score.f1,
        "eval_error_accuracy": score.error_accuracy,
        "eval_correct_accuracy": score.correct_accuracy,
    }
    return {name: value for name, value in found.items() if value is not None}
