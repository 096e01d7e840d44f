"""Judges many solutions into a run's folder, with the driver of batch commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import JsonValue

from genprm.config import Keep
from genprm.data.inputs import BadRow, InputRow
from genprm.grading.code_tests import CodeTests
from genprm.prms.base import PRM, judge_watched
from genprm.runs.driver import Finished, Progress, drive
from genprm.runs.folder import RunFolder, open_run
from genprm.runs.rows import VerifyRow, verify_row
from genprm.types import StepJudgement

OVERSUBSCRIPTION = 2
"""Chains in flight per sequence that the engine decodes at once: some wait for the sandbox while others decode."""


def default_concurrency(capacity: int, votes: int) -> int:
    """Number of rows in flight that keeps the engine full.

    Args:
        capacity: chains that fill the engine.
        votes: chains per row.
    """
    return max(1, -(-OVERSUBSCRIPTION * capacity // votes))


async def verify(
    rows: Iterable[InputRow | BadRow],
    prm: PRM,
    run: RunFolder | Path,
    *,
    concurrency: int | None = None,
    seed: int = 0,
    keep: Keep = Keep.FULL,
    code_tests: CodeTests | None = None,
    progress: Progress | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Judges the rows that are not in the folder yet, and writes each as soon as it is finished.

    Cancelling it keeps what is finished.

    Args:
        rows: read in a separate thread, no further ahead than needed.
        prm: the judge.
        run: the output: an open run folder, or a path at which a run is started or resumed.
        concurrency: rows in flight; by default enough to keep the engine full.
        seed: passed to the PRM for every row, so that a row does not depend on its position.
        keep: how much of a judgement is stored.
        code_tests: runs the tests of rows that have them; without it they are not run.
        progress: the counters to update; new ones by default.
        on_progress: called after every row, and after every step of a judge that tells of steps.

    Raises:
        BatchError: too many consecutive rows failed.
        WriteError: a row cannot be written.
        InputError: a file cannot be read.
    """
    if isinstance(run, Path):
        stored: dict[str, JsonValue] = {"judge": dict(prm.facts), "seed": seed, "keep": keep.value}
        with open_run(run, command="verify", config=stored) as folder:
            return await verify(
                rows, prm, folder, concurrency=concurrency, seed=seed, keep=keep, code_tests=code_tests,
                progress=progress, on_progress=on_progress,
            )  # fmt: skip
    concurrency = concurrency or default_concurrency(prm.capacity, getattr(prm, "votes", 1))
    counted = progress or Progress()

    async def judge(row: InputRow) -> Finished:
        started = time.perf_counter()
        counted.steps[row.key] = (0, len(row.steps))

        def on_step(index: int, step: StepJudgement) -> None:
            counted.steps[row.key] = (index + 1, len(row.steps))
            on_progress(counted)

        try:
            judgement = await judge_watched(prm, row.problem, row.steps, on_step, seed=seed)
        finally:
            del counted.steps[row.key]
        if row.tests is not None and code_tests is not None:
            judgement = await code_tests.check(judgement, row.steps, row.tests)
        out = verify_row(row, judgement, seconds=time.perf_counter() - started, keep=keep)
        return Finished(out, judgement.tokens.generated)

    return await drive(rows, run, judge, concurrency=concurrency, progress=counted, on_progress=on_progress)


def finished_rows(run: RunFolder, progress: Progress) -> Iterator[VerifyRow]:
    """The rows of the folder that belong to the input just read, in its order."""
    return (row for row in run.rows(VerifyRow) if row.key in progress.keys)
