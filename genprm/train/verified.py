"""Evaluates a generative model by `verify`: at checkpoints, and when finished."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from genprm.benchmarks.processbench import F1Score, f1_score
from genprm.data.inputs import BadRow, InputRow, read_rows
from genprm.engines.tokenizer import Tokenizer
from genprm.prms import load_prm
from genprm.sandbox import open_sandbox
from genprm.train.config import SftConfig
from genprm.train.finished import save_weights, write_profile
from genprm.train.profile import model_profile, profile_json
from genprm.train.rows import TrainError


def verify_checkpoint(
    trainer: Any,
    tokenizer: Tokenizer,
    config: SftConfig,
    solutions: Sequence[InputRow],
    out: Path,
    say: Callable[[str], None] | None,
) -> Mapping[str, float]:
    """Judges the held-out solutions with the current weights and real code."""
    if trainer.accelerator.num_processes > 1:
        if say is not None:
            say("verifying at checkpoints needs a single process: skipped")
        return {}
    folder = out / ".verify"
    try:
        folder.mkdir(exist_ok=True)
        save_weights(trainer, tokenizer, folder)
        write_profile(profile_json(model_profile(config)), folder)
        return verify_metrics(folder, config, solutions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ready_to_verify(config: SftConfig) -> list[InputRow]:
    """The solutions of `config.verify_data`. They and the sandbox are checked long before they are needed.

    Raises:
        InputError: they cannot be read.
        TrainError: there are none, or one is not a labelled solution.
        SandboxError: there is no sandbox.
    """
    assert config.verify_data is not None
    solutions: list[InputRow] = []
    for row in read_rows([config.verify_data], limit=config.verify_limit):
        where = f"--verify-data {row.file}, line {row.line}"
        if isinstance(row, BadRow):
            raise TrainError(f"{where}: {row.reason}")
        if row.label is None:
            raise TrainError(f"{where}: a `label` is wanted to measure against")
        solutions.append(row)
    if not solutions:
        raise TrainError(f"--verify-data {config.verify_data} has no rows")
    if config.family == "genprm":
        asyncio.run(_enter(config))
    return solutions


async def _enter(config: SftConfig) -> None:
    async with open_sandbox(config.sandbox):
        pass


def verify_metrics(folder: Path, config: SftConfig, solutions: Sequence[InputRow]) -> dict[str, float]:
    """Official F1 of the model in a folder, with code and without."""
    modes: Sequence[tuple[str, Literal["execute", "analyze"]]] = [("verify_f1", "execute")]
    if config.family == "genprm":
        modes = [*modes, ("verify_f1_no_code", "analyze")]
    found: dict[str, float] = {}
    for name, mode in modes:
        score = asyncio.run(verify_folder(folder, solutions, mode, config.sandbox))
        if score.f1 is not None:
            found[name] = score.f1
    return found


async def verify_folder(
    folder: Path,
    solutions: Sequence[InputRow],
    mode: Literal["execute", "analyze"],
    sandbox: Literal["auto", "docker", "bubblewrap"],
) -> F1Score:
    """Judges labelled solutions with a model."""
    prm = await load_prm(str(folder), mode=mode, sandbox=sandbox)
    try:
        limited = asyncio.Semaphore(2 * prm.capacity)

        async def judged(problem: str, steps: Sequence[str]) -> int | None:
            async with limited:
                return (await prm.judge(problem, steps)).first_error

        predictions = await asyncio.gather(*(judged(row.problem, row.steps) for row in solutions))
    finally:
        await prm.close()
    return f1_score(predictions, [row.label for row in solutions if row.label is not None])
