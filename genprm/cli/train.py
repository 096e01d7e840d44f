"""`genprm train`: trains process reward models."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli import options
from genprm.cli.boundary import INTERRUPTED, TERMINATED, notes, stderr, stdout
from genprm.fields import free_fields
from genprm.train.config import DiscriminativeConfig, ImplicitConfig, SftConfig, TrainConfig

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.train.finished import Trained

app = typer.Typer(name="train", help="Trains process reward models.", no_args_is_help=True, rich_markup_mode=None)

_ENDS = "Exit codes: 0 finished, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM (both write a checkpoint)."
EPILOG = f"""Examples:\n
  genprm train sft runs/train --model Qwen/Qwen2.5-1.5B-Instruct --out models/judge\n
  genprm train sft runs/train --model launch/ThinkPRM-1.5B --family thinkprm --lora --out models/judge\n
  accelerate launch --config_file recipes/train/fsdp2.yaml -m genprm train sft runs/train --model Qwen/Qwen2.5-7B\n
{_ENDS}"""
DISCRIMINATIVE_EPILOG = f"""Examples:\n
  genprm train discriminative runs/labels --model Qwen/Qwen2.5-Math-7B-Instruct --out models/head\n
  genprm train discriminative trl-rows.jsonl --layout token-classification --eval-data processbench.json\n
{_ENDS}"""
IMPLICIT_EPILOG = f"""Examples:\n
  genprm train implicit runs/labels --model meta-llama/Llama-3.1-8B-Instruct --out models/implicit\n
  genprm train implicit runs/labels --objective dpo --pairs 8 --lora --learning-rate 1e-5\n
{_ENDS}"""


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
    """Trains a generative PRM on the rationales in DATA, and writes a folder for `genprm verify --model` and vLLM.

    A row of DATA has `messages` (and `problem` and `steps`), as `genprm synthesize` writes it, or `input_ids` and
    `labels`. The loss covers what the model writes at inference, not user turns, forced prefixes or executed output.
    """
    sft_into(training.model_copy(update={"data": data}))


def sft_into(config: SftConfig) -> None:
    """Trains a generative PRM on `config.data` into a run's folder, and prints the results.

    Raises:
        typer.Exit: a signal stopped the run.
        TrainError: the data or the model cannot be used.
    """
    from genprm.train.sft import train_sft

    _train(config, "train sft", train_sft)


def discriminative(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder of a run of `genprm label`, a file of labelled solutions, or a data set of the Hub.",
            show_default=False,
        ),
    ],
    training: Annotated[DiscriminativeConfig, options.Options(without=("data",))],
) -> None:
    """Trains a head that scores the end of each step, and writes a folder for `genprm verify --model` and vLLM.

    A row of DATA has `problem` and `steps`, and step labels of `genprm label`, or `label` (the first wrong step, as in
    ProcessBench); or TRL's `prompt`, `completions` and `labels`, which may be numbers from 0 to 1.
    """
    from genprm.train.discriminative import train_discriminative

    _train(training.model_copy(update={"data": data}), "train discriminative", train_discriminative)


def implicit(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder of a run of `genprm label`, a file of solutions with outcomes, or a data set of the Hub.",
            show_default=False,
        ),
    ],
    training: Annotated[ImplicitConfig, options.Options(without=("data",))],
) -> None:
    """Trains an implicit PRM on outcomes alone, and writes a folder for `genprm verify --model` and vLLM.

    A row of DATA has `problem` and `steps` (or `solution`) and says whether the answer is right, by
    `final_answer_correct`, `correct` or `label`. Rows with `prompt`, `completions` and `correctness` are read too, and
    so are TRL's with `prompt`, `completion` and `label`, or with `prompt`, `chosen` and `rejected`.
    """
    from genprm.train.implicit_training import train_implicit

    _train(training.model_copy(update={"data": data}), "train implicit", train_implicit)


def _train(config: TrainConfig, command: str, train: Callable[..., Trained]) -> None:
    """Trains in the folder of the run, and prints the results."""
    import json

    from genprm.cli.log import LOG, logged
    from genprm.cli.session import print_json
    from genprm.cli.summary import print_training
    from genprm.runs.folder import METRICS
    from genprm.runs.tracking import Tracker, check_tracker
    from genprm.train.running import Stopped

    check_tracker(config.track)
    first = not int(os.environ.get("RANK", "0"))
    with _folder(config, command, config.data) as out, logged(out / LOG):
        tracker = Tracker(config.track if first else "none", str(out), config.stored())
        try:
            train(config, out, say=_say, note=tracker.log)
        except Stopped as stopped:
            stderr().print(f"Stopped after step {stopped.step:,}; the same command resumes.")
            raise typer.Exit(TERMINATED if stopped.signal == signal.SIGTERM else INTERRUPTED) from None
        finally:
            tracker.close({})
    if not first:
        return
    if config.track != "none":
        notes().print(f"{config.track}: project {tracker.project}, run {out}", soft_wrap=True)
    metrics = json.loads((out / METRICS).read_text(encoding="utf-8"))
    if config.as_json:
        print_json(command, config.stored(), metrics)
    else:
        print_training(stdout(), metrics)
    (notes() if config.as_json else stdout()).print(f"model: {out}", soft_wrap=True)


@contextmanager
def _folder(config: TrainConfig, command: str, data: str) -> Generator[Path]:
    """Opens the run's folder, for a single writing process.

    Raises:
        RunError: the folder holds something else, or a run with another configuration or other data.
        TrainError: there is no such data.
    """
    import shutil

    from genprm.runs.folder import ROWS, digest, open_run
    from genprm.train.callbacks import CHECKPOINTS, LOG
    from genprm.train.rows import content_of

    stored: dict[str, JsonValue] = config.stored()
    free = free_fields(type(config))
    stem = Path(data).name.split(".")[0] or "data"
    out = config.out or Path("runs") / f"{stem}-{digest(command, stored, free)[:8]}"
    if int(os.environ.get("RANK", "0")):
        yield out  # another process of the same run holds the folder
        return
    # Not in the folder's name: the same command over other data must find the old run, and be refused.
    if (content := content_of(data)) is not None:
        stored["data_sha256"] = content
    with open_run(out, command=command, config=stored, free=free, clean=config.clean) as run:
        if config.clean:
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
            (out / LOG).unlink(missing_ok=True)
        yield run.path
    (out / ROWS).unlink(missing_ok=True)  # a training run has none


def _say(line: str) -> None:
    stderr().print(line, soft_wrap=True, markup=False)


options.command(app, "sft", epilog=EPILOG)(sft)
options.command(app, "discriminative", epilog=DISCRIMINATIVE_EPILOG)(discriminative)
options.command(app, "implicit", epilog=IMPLICIT_EPILOG)(implicit)
