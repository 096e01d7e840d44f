"""The frame of a batch command: its messages, its time, and its end, normal or interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from genprm.cli.boundary import stderr, stdout
from genprm.cli.progress import shown

if TYPE_CHECKING:
    from pydantic import BaseModel, JsonValue

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.runs.rows import FailureRow


class CommandSession:
    """One run of a command on a run's folder. Time counts from the call of `working`, when the models are open."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    @contextmanager
    def working(self) -> Generator[Callable[[Progress], None]]:
        """Shows progress; yields a function to call after every row."""
        self.started = time.perf_counter()
        with shown(stderr()) as on_progress:
            yield on_progress


@contextmanager
def session_of(
    run: RunFolder, progress: Progress, finish: Callable[[SessionMetrics, bool], None]
) -> Generator[CommandSession]:
    """Prints what is already done, and calls `finish` at the end, also when the work was stopped or abandoned.

    Args:
        run: the folder.
        progress: the counts, updated by the work.
        finish: writes metrics and page, given this run's metrics and whether it was interrupted.

    Raises:
        CancelledError: the work was stopped; `finish` has been called.
        BatchError: it was abandoned; `finish` has been called.
    """
    import asyncio

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import BatchError

    if run.done:
        stderr().print(f"Resuming {run.path}: {len(run.done):,} rows are done.", soft_wrap=True)
    session = CommandSession()
    stopped: BaseException | None = None
    try:
        yield session
    except (asyncio.CancelledError, BatchError) as error:
        stopped = error
    seconds = time.perf_counter() - session.started
    did = SessionMetrics(
        rows=progress.judged,
        failed=progress.failed,
        duplicates=len(progress.duplicates),
        seconds=round(seconds, 3),
        generated_per_s=round(progress.generated / seconds, 1) if seconds > 0 else 0.0,
    )
    finish(did, stopped is not None)
    if progress.duplicates:
        shown = "; ".join(progress.duplicates[:3]) + ("; ..." if len(progress.duplicates) > 3 else "")
        text = f"{len(progress.duplicates):,} repeated rows were skipped: {shown}"
        stderr().print(text, soft_wrap=True, markup=False)
    if stopped is not None:
        stderr().print(f"Stopped. {len(run.done):,} rows are kept; the same command resumes.")
        raise stopped


def finish_run(
    run: RunFolder,
    metrics: BaseModel | Mapping[str, JsonValue],
    *,
    interrupted: bool,
    table: Callable[[], None],
    page: Callable[[Path, list[FailureRow]], int] | None = None,
    more: Callable[[], None] = lambda: None,
) -> None:
    """Writes a run's metrics and, unless it was interrupted, its page; prints the results.

    Args:
        run: the folder.
        metrics: the content of `metrics.json`.
        interrupted: the work was stopped before its end.
        table: prints the result.
        page: writes the page, given its path and the failures; returns how many rows' texts did not fit.
        more: prints what comes after the table and the failures, such as the paths of plots.
    """
    import json

    from genprm.cli import summary
    from genprm.runs.folder import FAILURES, METRICS, REPORT, read_rows_of, write_atomically
    from genprm.runs.rows import FailureRow

    text = json.dumps(metrics, indent=2) if isinstance(metrics, Mapping) else metrics.model_dump_json(indent=2)
    write_atomically(run.path / METRICS, text)
    if interrupted:
        return
    failures = list(read_rows_of(run.path, FailureRow, FAILURES))
    left_out = 0 if page is None else page(run.path / REPORT, failures)
    table()
    summary.print_failures(stderr(), failures, str(run.path / FAILURES))
    if left_out:
        stderr().print(f"The page lists all rows, without the texts of {left_out:,} that did not fit.")
    more()
    if page is not None:
        stdout().print(f"page: {run.path / REPORT}", soft_wrap=True)
