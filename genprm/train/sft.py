"""Supervised fine-tuning of generative PRMs, on TRL's SFTTrainer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm.engines.tokenizer import Tokenizer
from genprm.train.config import SftConfig
from genprm.train.profile import model_profile, profile_json
from genprm.train.rows import read_source
from genprm.train.running import (
    Note,
    Running,
    Say,
    Stopped,
    autocast_of,
    check_devices,
    check_installed,
    load_network,
    load_tokenizers,
    longest_of,
    lora_config,
    need_template,
    random_network,
    training_arguments,
)
from genprm.train.token_rows import TokenSet, tokenize

if TYPE_CHECKING:
    from genprm.train.finished import Trained

__all__ = ["Stopped", "prepare", "train_sft"]


def prepare(config: SftConfig, longest: int, tokenizer: Tokenizer) -> tuple[TokenSet, TokenSet | None]:
    """Tokenises the data, and the held-out rows if any.

    Args:
        config: of the run.
        longest: most tokens of a sequence.
        tokenizer: the model's tokenizer.

    Raises:
        TrainError: a row cannot be trained on.
    """
    profile = model_profile(config)

    async def both() -> tuple[TokenSet, TokenSet | None]:
        data = await tokenize(
            read_source(config.data), tokenizer, profile, max_length=longest, bad_rows=config.bad_rows
        )
        if config.eval_data is None:
            return data, None
        rows = read_source(config.eval_data)
        return data, await tokenize(
            rows, tokenizer, profile, max_length=longest, bad_rows=config.bad_rows, limit=config.eval_limit
        )

    return asyncio.run(both())


def train_sft(config: SftConfig, out: Path, *, say: Say | None = None, note: Note | None = None) -> Trained:
    """Trains, evaluates and writes the model's folder. Resumes from the newest checkpoint in `out`, if any.

    Args:
        config: of the run.
        out: the folder, which gets weights, tokenizer, chat template, `genprm.json` and the model card.
        say: prints progress lines.
        note: gets the numbers of every line of the log, such as an experiment tracker.

    Raises:
        TrainError: the data, the model or a checkpoint cannot be used.
        EngineError: there is no tokenizer.
        InputError: the solutions to verify cannot be read.
        SandboxError: there is no sandbox to verify them in.
        Stopped: a signal ended the run; it can be resumed.
    """
    check_installed()
    check_devices()
    import torch
    from trl.trainer.sft_config import SFTConfig as TrlConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from genprm.train.callbacks import CHECKPOINTS
    from genprm.train.cpu_loss import CpuSFTTrainer
    from genprm.train.evaluate import evaluate
    from genprm.train.finished import Product, finish
    from genprm.train.verified import ready_to_verify, verify_checkpoint, verify_metrics

    solutions = None if config.verify_data is None else ready_to_verify(config)
    model, hf_tokenizer, tokenizer = load_model(config)
    data, held_out = prepare(config, longest_of(config, model.config), tokenizer)
    if say is not None:
        left = f", {len(data.left_out):,} rows left out" if data.left_out else ""
        say(f"{len(data.labels):,} critiques, {data.tokens:,} tokens, {data.learned:,} of them learned{left}")
    arguments = TrlConfig(
        output_dir=str(out / CHECKPOINTS),
        max_length=max(len(row.input_ids) for row in data.rows) if config.max_length is None else config.max_length,
        packing=config.packing,
        dataset_num_proc=None,
        shuffle_dataset=config.packing,
        **training_arguments(config),
    )
    autocast = autocast_of(arguments)
    running = Running(config, out, say, note)

    def evaluated(_: int) -> Mapping[str, float]:
        assert held_out is not None
        return evaluate(trainer.model, held_out, autocast=autocast).metrics()

    def verified(_: int) -> Mapping[str, float]:
        assert solutions is not None
        return verify_checkpoint(trainer, tokenizer, config, solutions, out, say)

    if held_out is not None:
        running.every(config.eval_steps, evaluated, begin=True)
    if solutions is not None and config.verify_steps is not None:
        running.every(config.verify_steps, verified)
    kind = SFTTrainer if torch.cuda.is_available() else CpuSFTTrainer
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=to_dataset(data),
        processing_class=hf_tokenizer,
        peft_config=lora_config(config, task_type="CAUSAL_LM") if config.lora else None,
        callbacks=running.callbacks,
    )
    running.train(trainer)
    counts = {"critiques": len(data.labels), "tokens": data.tokens, "learned_tokens": data.learned}
    product = Product(
        command="train sft",
        layout=f"layout of {config.family}",
        profile=profile_json(model_profile(config)),
        data=counts | {"sequences": len(data.rows), "left_out": len(data.left_out)},
        measured="`eval_...` is teacher-forced on held-out rows, `verify_...` is judged with real code.",
        remark=running.remark,
        verify=(lambda folder: verify_metrics(folder, config, solutions)) if solutions is not None else None,
    )
    return finish(trainer, tokenizer, config, out, product)


def load_model(config: SftConfig) -> tuple[Any, Any, Tokenizer]:
    """The model, its tokenizer for the trainer, and the tokenizer as judges see it.

    Raises:
        TrainError: there is no such model, or no chat template.
        EngineError: there is no usable tokenizer.
    """
    import transformers

    hf, tokenizer = load_tokenizers(config)
    need_template(hf, config.model)
    make = random_network if config.from_scratch else load_network
    return make(config, transformers.AutoModelForCausalLM), hf, tokenizer


def to_dataset(data: TokenSet) -> Any:
    """Token rows as a data set of the library `datasets`."""
    import datasets

    return datasets.Dataset.from_dict(
        {"input_ids": [row.input_ids for row in data.rows], "labels": [row.labels for row in data.rows]}
    )
