"""Evaluates a generative model by `verify`: at checkpoints, and when finished."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from genprm.benchmarks.processbench import F1Score, f1_score
from genprm.data.inputs import BadRow, read_rows
from genprm.engines.tokenizer import Tokenizer
from genprm.prms import load_prm
from genprm.train.config import SftConfig
from genprm.train.finished import save_weights, write_profile
from genprm.train.profile import model_profile, profile_json
from genprm.train.rows import TrainError


def verify_checkpoint(
    trainer: Any, tokenizer: Tokenizer, config: SftConfig, out: Path, step: int, say: Callable[[str], None] | None
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
        return verify_metrics(folder, config)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify_metrics(folder: Path, config: SftConfig) -> dict[str, float]:
    """Official F1 of the model in a folder, with code and without."""
    assert config.verify_data is not None
    modes: Sequence[tuple[str, Literal["execute", "analyze"]]] = [("verify_f1", "execute")]
    if config.family == "genprm":
        modes = [*modes, ("verify_f1_no_code", "analyze")]
    found: dict[str, float] = {}
    for name, mode in modes:
        score = asyncio.run(verify_folder(folder, config.verify_data, config.verify_limit, mode, config.sandbox))
        if score.f1 is not None:
            found[name] = score.f1
    return found


async def verify_folder(
    folder: Path,
    data: Path,
    limit: int | None,
    mode: Literal["execute", "analyze"],
    sandbox: Literal["auto", "docker", "bubblewrap"],
) -> F1Score:
    """Judges labelled solutions with a model.

    Raises:
        TrainError: a row is not a labelled solution.
    """
    rows = list(read_rows([data], limit=limit))
    for row in rows:
        if isinstance(row, BadRow):
            raise TrainError(f"{row.file}, line {row.line}: {row.reason}")
        if row.label is None:
            raise TrainError(f"{row.file}, line {row.line}: a `label` is wanted to measure against")
    solutions = [row for row in rows if not isinstance(row, BadRow)]
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
