"""Shared by all training runs: checks, settings, checkpoints, and an orderly stop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genprm.engines import BUILT_IN
from genprm.engines.tokenizer import Tokenizer
from genprm.extras import need
from genprm.train.config import TrainConfig
from genprm.train.rows import TrainError

Say = Callable[[str], None]
Note = Callable[[Mapping[str, float]], None]


class Stopped(Exception):
    """A signal ended the run after a step; its checkpoint is written."""

    def __init__(self, step: int, signal: int) -> None:
        super().__init__(f"stopped after step {step:,}; the same command resumes")
        self.step, self.signal = step, signal


class Running:
    """The callbacks of a run, and the run itself.

    Args:
        config: of the run.
        out: its folder.
        say: prints progress lines; None prints nothing.
    """

    def __init__(self, config: TrainConfig, out: Path, say: Say | None, note: Note | None) -> None:
        from genprm.train.callbacks import LOG, Every, Log, SaveByTheClock, Stop, UnloggedLoss

        self._out = out
        self._say = say
        self._lora = config.lora
        self._stop = Stop()
        self._loss = UnloggedLoss()
        self._every: list[Every] = []
        self.callbacks: list[Any] = [Log(out / LOG, say, note), self._stop, self._loss]
        """The trainer's callbacks."""
        self.remark: str | None = None
        """A warning about the finished training, for the model's card."""
        if config.save_minutes is not None:
            self.callbacks.append(SaveByTheClock(config.save_minutes))

    def every(self, steps: int, call: Callable[[int], Mapping[str, float]], *, begin: bool = False) -> None:
        """Calls something every few steps: see `genprm.train.callbacks.Every`."""
        from genprm.train.callbacks import Every

        self._every.append(one := Every(steps, call, begin=begin))
        self.callbacks.append(one)

    def train(self, trainer: Any) -> None:
        """Trains, from the newest checkpoint if there is one.

        Raises:
            Stopped: a signal ended the run; it can be resumed.
        """
        import transformers
        from accelerate.utils.dataclasses import DistributedType

        from genprm.train.callbacks import CHECKPOINTS
        from genprm.train.rounding import Rounding

        for one in (self._loss, *self._every):
            one.trainer = trainer
        trainer.remove_callback(transformers.PrinterCallback)
        last = self._newest(self._out / CHECKPOINTS, delete=trainer.is_world_process_zero())
        # Adapters are rounded only once they are merged, and several processes hold parts of the weights.
        whole = not self._lora and trainer.accelerator.distributed_type == DistributedType.NO
        rounding = Rounding(trainer.model) if whole else None
        with self._stop.listening():
            trainer.train(resume_from_checkpoint=last)
        if self._stop.signal is not None and trainer.state.global_step < trainer.state.max_steps:
            raise Stopped(trainer.state.global_step, self._stop.signal)
        if rounding is not None and (remark := rounding.remark()) is not None:
            self.remark = remark
            self._tell(f"Warning: {remark}")

    def _newest(self, folder: Path, *, delete: bool) -> str | None:
        """The newest whole checkpoint. Newer ones that are not whole are deleted, by one process."""
        found = ((path.name.removeprefix("checkpoint-"), path) for path in folder.glob("checkpoint-*"))
        for _, path in sorted(((int(step), path) for step, path in found if step.isdigit()), reverse=True):
            try:
                # Written last: without it, the process ended while it wrote the checkpoint.
                json.loads((path / "trainer_state.json").read_bytes())
            except (FileNotFoundError, ValueError):
                if delete:
                    self._tell(f"{path} is incomplete, and is deleted")
                    shutil.rmtree(path)
                continue
            self._tell(f"resuming from {path}")
            return str(path)
        return None

    def _tell(self, line: str) -> None:
        if self._say is not None:
            self._say(line)


def check_installed() -> None:
    """Checks early whether the libraries are installed, and silences them.

    Raises:
        ExtraError: one is missing; the message says what to install.
    """
    need("train", "trl", "peft", "datasets", "accelerate", what="training")
    import transformers

    transformers.logging.set_verbosity_error()


def check_devices() -> None:
    """Checks that this process will use one GPU.

    Raises:
        TrainError: there are several, and no launcher started a process for each.
    """
    import torch

    # The Trainer would give every GPU a batch, and make steps several times larger than was asked for.
    if "WORLD_SIZE" not in os.environ and (count := torch.cuda.device_count()) > 1:
        raise TrainError(
            f"there are {count} GPUs, and training uses one per process: start it with `accelerate launch` "
            "(docs/training.md), or choose one GPU with CUDA_VISIBLE_DEVICES=0"
        )


def training_arguments(config: TrainConfig) -> dict[str, Any]:
    """Arguments of the trainers of transformers and TRL."""
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
        "report_to": [],
        "seed": config.seed,
        "data_seed": config.seed,
        "disable_tqdm": True,
    }


def autocast_of(arguments: Any) -> Callable[[], Any]:
    """A context manager that sets the compute type, as the trainer does."""
    import torch

    if not arguments.bf16:
        return contextlib.nullcontext
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return lambda: torch.autocast(kind, dtype=torch.bfloat16)


def lora_config(config: TrainConfig, **more: Any) -> Any:
    """The adapters' configuration for peft."""
    from peft import LoraConfig

    targets = config.lora_targets
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if targets == "all-linear" else targets.split(","),
        **more,
    )


def longest_of(config: TrainConfig, model: Any) -> int:
    """The longest sequence, in tokens.

    Args:
        config: of the run.
        model: the model's transformers configuration.

    Raises:
        TrainError: the model's context is shorter than requested.
    """
    context = int(model.get_text_config().max_position_embeddings)
    if config.max_length is not None and config.max_length > context:
        raise TrainError(f"--max-length {config.max_length:,} exceeds the model's context of {context:,} tokens")
    return config.max_length or context


def load_tokenizers(config: TrainConfig) -> tuple[Any, Tokenizer]:
    """The model's tokenizer for the trainer, and for judges.

    Raises:
        TrainError: there is no such model.
        EngineError: there is no usable tokenizer.
    """
    import transformers

    path, where = _place(config)
    tokenizer = Tokenizer.from_pretrained(path, config.revision)
    try:
        # tokenizer.json directly: the class that a model declares may rebuild it by its own rules.
        return transformers.PreTrainedTokenizerFast.from_pretrained(path, **where), tokenizer
    except (OSError, ValueError, TypeError):
        try:
            return transformers.AutoTokenizer.from_pretrained(path, **where), tokenizer
        except (OSError, ValueError) as error:
            raise TrainError(f"no model could be loaded from {config.model!r}: {error}") from error


def load_network(config: TrainConfig, kind: Any, **more: Any) -> Any:
    """The model to start from; missing weights, such as a new head's, are random by the seed.

    Args:
        config: of the run.
        kind: a class with `from_pretrained`.
        **more: fields of the model's configuration.

    Raises:
        TrainError: there is no such model.
    """
    import torch
    import transformers

    path, where = _place(config)
    transformers.set_seed(config.seed)
    try:
        # Master weights in float32: updates of 2e-6 would be lost in bfloat16.
        return kind.from_pretrained(path, dtype=torch.float32, **where, **more)
    except (OSError, ValueError) as error:
        raise TrainError(f"no model could be loaded from {config.model!r}: {error}") from error


def random_network(config: TrainConfig, kind: Any) -> Any:
    """A network of the model's architecture with random weights, by the seed.

    Args:
        config: of the run.
        kind: a class with `from_config`.

    Raises:
        TrainError: there is no such model.
    """
    import torch
    import transformers

    path, where = _place(config)
    transformers.set_seed(config.seed)
    try:
        shape = transformers.AutoConfig.from_pretrained(path, **where)
        return kind.from_config(shape, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise TrainError(f"no model could be loaded from {config.model!r}: {error}") from error


def need_template(tokenizer: Any, model: str) -> None:
    """Checks that a model has a chat template.

    Raises:
        TrainError: its tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise TrainError(
            f"the tokenizer of {model!r} has no chat template: a base model needs one in its tokenizer's folder "
            "(chat_template.jinja) before it can be used as a judge"
        )


def _place(config: TrainConfig) -> tuple[str, dict[str, Any]]:
    path = str(BUILT_IN[config.model]) if config.model in BUILT_IN else config.model
    return path, {"revision": config.revision} if config.revision else {}
