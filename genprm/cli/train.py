"""`genprm train`: models made of labels."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli import options
from genprm.cli.boundary import INTERRUPTED, TERMINATED, stderr, stdout
from genprm.fields import free_fields
from genprm.train.config import SftConfig

if TYPE_CHECKING:
    from pydantic import JsonValue

app = typer.Typer(name="train", help="Trains process reward models.", no_args_is_help=True, rich_markup_mode=None)

EPILOG = """Examples:\n
  genprm train sft runs/train --model Qwen/Qwen2.5-1.5B-Instruct --out models/judge\n
  genprm train sft runs/train --model launch/ThinkPRM-1.5B --family thinkprm --lora --out models/judge\n
  accelerate launch --config_file recipes/train/fsdp2.yaml -m genprm train sft runs/train --model Qwen/Qwen2.5-7B\n
Exit codes: 0 finished, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM (both leave a checkpoint)."""


def sft(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder of a run of `genprm synthesize`, a .jsonl or .parquet file, or a data set of the Hub.",
            show_default=False,
        ),
    ],
    training: Annotated[SftConfig, options.Options(without=("data",))],
) -> None:
    """Trains a generative PRM on the critiques in DATA, and writes a folder that `genprm verify --model` and vLLM take.

    A row of DATA has `messages` (and `problem` and `steps`), as `genprm synthesize` writes it, or `input_ids` and
    `labels`. What the model does not write at inference is not learned: user turns, forced prefixes, executed output.
    """
    from genprm.train.sft import Stopped, train_sft

    config = training.model_copy(update={"data": data})
    with _folder(config, "train sft", data) as out:
        try:
            trained = train_sft(config, out, say=_say)
        except Stopped as stopped:
            stderr().print(f"Stopped after step {stopped.step:,}; the same command goes on from there.")
            raise typer.Exit(TERMINATED if stopped.signal == signal.SIGTERM else INTERRUPTED) from None
    for name, value in sorted(trained.metrics.items()):
        stdout().print(f"{name:24} {value:.4f}")
    stdout().print(f"model: {out}", soft_wrap=True)


@contextmanager
def _folder(config: SftConfig, command: str, data: str) -> Generator[Path]:
    """Opens the folder of the run, which one process alone writes to.

    Raises:
        RunError: it holds something else, or a run of another configuration.
    """
    import shutil

    from genprm.runs.folder import ROWS, digest, open_run
    from genprm.train.callbacks import CHECKPOINTS, LOG

    stored: dict[str, JsonValue] = config.stored()
    free = free_fields(type(config))
    stem = Path(data).name.split(".")[0] or "data"
    out = config.out or Path("runs") / f"{stem}-{digest(command, stored, free)[:8]}"
    if int(os.environ.get("RANK", "0")):
        yield out  # another process of the same run holds the folder
        return
    with open_run(out, command=command, config=stored, free=free, clean=config.clean) as run:
        if config.clean:
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
            (out / LOG).unlink(missing_ok=True)
        yield run.path
    (out / ROWS).unlink(missing_ok=True)  # a training run has none


def _say(line: str) -> None:
    stderr().print(line, soft_wrap=True, markup=False)


options.command(app, "sft", epilog=EPILOG)(sft)
