"""Supervised fine-tuning of generative PRMs, on TRL's SFTTrainer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm.engines import BUILT_IN
from genprm.engines.tokenizer import Tokenizer
from genprm.train.config import SftConfig
from genprm.train.profile import model_profile
from genprm.train.rows import TrainError, read_source
from genprm.train.token_rows import TokenSet, tokenize

if TYPE_CHECKING:
    from genprm.train.finished import Trained

Say = Callable[[str], None]


class Stopped(Exception):
    """A signal ended the run behind a step; its checkpoint is written."""

    def __init__(self, step: int, signal: int) -> None:
        super().__init__(f"stopped after step {step:,}; the same command goes on from there")
        self.step, self.signal = step, signal


def prepare(config: SftConfig, context: int, tokenizer: Tokenizer) -> tuple[TokenSet, TokenSet | None]:
    """Tokenises the data, and the held-out rows where there are some.

    Args:
        config: of the run.
        context: of the model, in tokens.
        tokenizer: of the model.

    Raises:
        TrainError: a row cannot be trained on.
    """
    if config.max_length is not None and config.max_length > context:
        raise TrainError(
            f"--max-length {config.max_length:,} is more than the {context:,} tokens of the model's context"
        )
    longest = config.max_length or context
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


def train_sft(config: SftConfig, out: Path, *, say: Say | None = None) -> Trained:
    """Trains, evaluates and writes the model's folder. Goes on from the newest checkpoint in `out` where there is one.

    Args:
        config: of the run.
        out: the folder. Weights, tokenizer, chat template, `genprm.json` and the model card stand in it at the end.
        say: prints a line about what goes on.

    Raises:
        TrainError: the data, the model or a checkpoint cannot be used.
        EngineError: there is no tokenizer.
        Stopped: a signal ended the run; it can go on.
    """
    check_installed()
    import torch
    import transformers
    from transformers.trainer_utils import get_last_checkpoint
    from trl.trainer.sft_config import SFTConfig as TrlConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from genprm.train.callbacks import CHECKPOINTS, LOG, Every, Log, SaveByTheClock, Stop
    from genprm.train.cpu_loss import CpuSFTTrainer
    from genprm.train.evaluate import evaluate
    from genprm.train.finished import finish, verify_checkpoint

    transformers.logging.set_verbosity_error()
    model, hf_tokenizer, tokenizer = load_model(config)
    data, held_out = prepare(config, int(model.config.get_text_config().max_position_embeddings), tokenizer)
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
    stop = Stop()
    autocast = _autocast(arguments)
    callbacks: list[Any] = [Log(out / LOG, say), stop]
    if config.save_minutes is not None:
        callbacks.append(SaveByTheClock(config.save_minutes))

    def evaluated(_: int) -> Mapping[str, float]:
        assert held_out is not None
        return evaluate(trainer.model, held_out, autocast=autocast).metrics()

    def verified(step: int) -> Mapping[str, float]:
        return verify_checkpoint(trainer, tokenizer, config, out, step, say)

    every: list[Every] = []
    if held_out is not None:
        every.append(Every(config.eval_steps, evaluated, begin=True))
    if config.verify_data is not None and config.verify_steps is not None:
        every.append(Every(config.verify_steps, verified))
    kind = SFTTrainer if torch.cuda.is_available() else CpuSFTTrainer
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=to_dataset(data),
        processing_class=hf_tokenizer,
        peft_config=_lora(config) if config.lora else None,
        callbacks=[*callbacks, *every],
    )
    for one in every:
        one.trainer = trainer
    trainer.remove_callback(transformers.PrinterCallback)
    last = get_last_checkpoint(str(out / CHECKPOINTS)) if (out / CHECKPOINTS).is_dir() else None
    if last is not None and say is not None:
        say(f"going on from {last}")
    with stop.listening():
        trainer.train(resume_from_checkpoint=last)
    if stop.signal is not None and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped(trainer.state.global_step, stop.signal)
    return finish(trainer, tokenizer, config, out, data)


def training_arguments(config: SftConfig) -> dict[str, Any]:
    """What the trainers of transformers and TRL take."""
    import torch

    world = int(os.environ.get("WORLD_SIZE", "1"))
    accumulate, rest = divmod(config.batch_size, config.device_batch_size * world)
    if rest or not accumulate:
        raise TrainError(
            f"a batch of {config.batch_size} cannot be split over {world} devices with {config.device_batch_size} each"
        )
    bf16 = config.dtype == "bfloat16" or (config.dtype == "auto" and torch.cuda.is_available())
    return {
        "per_device_train_batch_size": config.device_batch_size,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "adam_beta2": config.beta2,
        "max_grad_norm": config.max_grad_norm,
        "bf16": bf16,
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": config.gradient_checkpointing,
        "logging_steps": config.log_steps,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": config.keep_checkpoints,
        "eval_strategy": "no",
        "report_to": [] if config.report_to == "none" else [config.report_to],
        "seed": config.seed,
        "data_seed": config.seed,
        "disable_tqdm": True,
    }


def load_model(config: SftConfig) -> tuple[Any, Any, Tokenizer]:
    """The model, its tokenizer for the trainer, and the tokenizer as judges see it.

    Raises:
        TrainError: there is no such model, or no chat template.
        EngineError: there is no usable tokenizer.
    """
    import torch
    import transformers

    path = str(BUILT_IN[config.model]) if config.model in BUILT_IN else config.model
    tokenizer = Tokenizer.from_pretrained(path, config.revision)
    where: dict[str, Any] = {"revision": config.revision} if config.revision else {}
    try:
        # Masters in float32: steps of 2e-6 would be lost in bfloat16.
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **where)
        try:
            # tokenizer.json as it is: the class that a model declares may rebuild it by rules of its own.
            hf: Any = transformers.PreTrainedTokenizerFast.from_pretrained(path, **where)
        except (OSError, ValueError, TypeError):
            hf = transformers.AutoTokenizer.from_pretrained(path, **where)
    except (OSError, ValueError) as error:
        raise TrainError(f"no model could be loaded from {config.model!r}: {error}") from error
    if hf.chat_template is None:
        raise TrainError(
            f"the tokenizer of {config.model!r} has no chat template: a base model needs one in its tokenizer's folder "
            "(chat_template.jinja) before it can be asked in turns"
        )
    return model, hf, tokenizer


def to_dataset(data: TokenSet) -> Any:
    """Token rows as a data set of the library `datasets`."""
    import datasets

    return datasets.Dataset.from_dict(
        {"input_ids": [row.input_ids for row in data.rows], "labels": [row.labels for row in data.rows]}
    )


def check_installed() -> None:
    """Finds out early whether the libraries are there.

    Raises:
        TrainError: one is missing; says what to install.
    """
    import importlib.util

    missing = [name for name in ("trl", "peft", "datasets", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainError(f"training needs {', '.join(missing)}: pip install 'genprm[train]'")


def _lora(config: SftConfig) -> Any:
    from peft import LoraConfig

    targets = config.lora_targets
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if targets == "all-linear" else targets.split(","),
    )


def _autocast(arguments: Any) -> Callable[[], Any]:
    import torch

    if not arguments.bf16:
        return contextlib.nullcontext
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return lambda: torch.autocast(kind, dtype=torch.bfloat16)
