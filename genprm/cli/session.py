"""The frame of a batch command: its messages, its time, and its end, normal or interrupted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from genprm.cli.boundary import notes, stderr, stdout
from genprm.cli.log import LOG, logged
from genprm.cli.progress import shown
from genprm.cli.terminal import counted
from genprm.config import TrackerName
from genprm.runs.tracking import Tracker, check_tracker
from genprm.spent import spent_so_far

if TYPE_CHECKING:
    from pydantic import BaseModel, JsonValue

    from genprm.benchmarks.metrics import SessionMetrics, TimeSpent
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.runs.rows import FailureRow

logger = logging.getLogger("genprm")


class CommandSession:
    """One run of a command on a run's folder. Time counts from the call of `working`, when the models are open."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._begin()

    def _begin(self) -> None:
        self.started, self._before = time.perf_counter(), spent_so_far()

    def time_spent(self) -> TimeSpent | None:
        """Where the time since `started` went; None where this process asked no model."""
        from genprm.benchmarks.metrics import TimeSpent

        spent = spent_so_far().since(self._before)
        if not spent.engine_calls:
            return None
        return TimeSpent(
            engine_s=round(spent.engine, 3),
            sandbox_s=round(spent.sandbox, 3),
            waiting_s=round(spent.waiting, 3),
            driver_s=round(spent.driver, 3),
            engine_calls=spent.engine_calls,
            sandbox_calls=spent.sandbox_calls,
        )

    @contextmanager
    def working(self) -> Generator[Callable[[Progress], None]]:
        """Shows progress; yields a function to call after every row."""
        self._begin()
        with shown(notes()) as show:

            def on_progress(progress: Progress) -> None:
                show(progress)
                self._tracker.note(
                    {"rows": progress.done, "failed": progress.failed, "tokens/generated": progress.generated}
                )

            yield on_progress


@contextmanager
def session_of(
    run: RunFolder,
    progress: Progress,
    finish: Callable[[SessionMetrics, bool], None],
    track: TrackerName = "none",
) -> Generator[CommandSession]:
    """Prints what is already done, and calls `finish` at the end, also when the work was stopped or abandoned.

    Args:
        run: the folder.
        progress: the counts, updated by the work.
        finish: writes metrics and page, given this run's metrics and whether it was interrupted.
        track: the experiment tracker that is told as well.

    Raises:
        CancelledError: the work was stopped; `finish` has been called.
        BatchError: it was given up; `finish` has been called.
        WriteError: the disk is full; `finish` has been called.
    """
    import asyncio

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import BatchError
    from genprm.runs.folder import WriteError

    if run.done:
        notes().print(f"Resuming {run.path}: {_are(len(run.done))} done.", soft_wrap=True)
    check_tracker(track)
    stopped: BaseException | None = None
    with logged(run.path / LOG):
        tracker = Tracker(track, str(run.path), run.info.config)
        session = CommandSession(tracker)
        logger.info("genprm %s on %s", run.info.command, run.path)
        try:
            yield session
        except (asyncio.CancelledError, BatchError, WriteError) as error:
            logger.info("stopped: %s", error or type(error).__name__)
            stopped = error
    seconds = time.perf_counter() - session.started
    did = SessionMetrics(
        rows=progress.judged,
        failed=progress.failed,
        duplicates=len(progress.duplicates),
        seconds=round(seconds, 3),
        generated_per_s=round(progress.generated / seconds, 1) if seconds > 0 else 0.0,
        time=session.time_spent(),
    )
    try:
        finish(did, stopped is not None)
    except WriteError:
        if stopped is None:
            raise
    finally:
        with logged(run.path / LOG):
            tracker.close(_metrics(run))
    if track != "none":
        notes().print(f"{track}: project {tracker.project}, run {run.path}", soft_wrap=True)
    if progress.duplicates:
        shown = "; ".join(progress.duplicates[:3]) + ("; ..." if len(progress.duplicates) > 3 else "")
        were = "was" if len(progress.duplicates) == 1 else "were"
        text = f"{counted(len(progress.duplicates), 'repeated row')} {were} skipped: {shown}"
        notes().print(text, soft_wrap=True, markup=False)
    if stopped is not None:
        notes().print(f"Stopped. {_are(len(run.done))} kept; the same command resumes.")
        raise stopped


def _metrics(run: RunFolder) -> dict[str, JsonValue]:
    """What `metrics.json` holds; nothing where it could not be written."""
    import json

    from genprm.runs.folder import METRICS

    try:
        return json.loads((run.path / METRICS).read_bytes())
    except (OSError, ValueError):
        return {}


def _are(rows: int) -> str:
    return f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'}"


def finish_run(
    run: RunFolder,
    metrics: BaseModel | Mapping[str, JsonValue],
    *,
    interrupted: bool,
    table: Callable[[], None],
    page: Callable[[Path, list[FailureRow]], int] | None = None,
    more: Callable[[], None] = lambda: None,
    as_json: bool = False,
) -> None:
    """Writes a run's metrics and, unless it was interrupted, its page; prints the results.

    Args:
        run: the folder.
        metrics: what `metrics.json` holds.
        interrupted: the work was stopped before its end. What there is is printed all the same where the disk is full,
            as it may be in no file.
        table: prints the result.
        page: writes the page, given its path and the failures; returns the rows whose texts found no room in it.
        more: writes and prints what comes after the table and the failures, such as plots.
        as_json: print one JSON object, as `genprm show --json` does, in place of the table.

    Raises:
        WriteError: metrics or page cannot be written; the result has been printed.
    """
    import json

    from genprm.cli import summary
    from genprm.runs.folder import FAILURES, METRICS, REPORT, WriteError, read_rows_of, write_atomically
    from genprm.runs.rows import FailureRow

    failed: WriteError | None = None
    found = dict(metrics) if isinstance(metrics, Mapping) else metrics.model_dump(mode="json")
    try:
        write_atomically(run.path / METRICS, json.dumps(found, indent=2))
    except WriteError as error:
        failed = error
    if interrupted and not run.full:
        if failed:
            raise failed
        return
    failures = list(read_rows_of(run.path, FailureRow, FAILURES))
    left_out = 0
    try:
        left_out = 0 if page is None else page(run.path / REPORT, failures)
    except WriteError as error:
        failed = error
    if as_json:
        print_json(run.info.command, run.info.config, found)
    else:
        table()
    summary.print_failures(stderr(), failures, str(run.path / FAILURES))
    if left_out:
        notes().print(f"The page lists all rows, without the texts of {left_out:,} that did not fit.")
    if failed:
        raise failed
    if interrupted:
        return
    more()
    if page is not None:
        (notes() if as_json else stdout()).print(f"page: {run.path / REPORT}", soft_wrap=True)


def print_json(command: str, config: Mapping[str, JsonValue], metrics: JsonValue) -> None:
    """Prints a run's result as one JSON object on one line."""
    import json

    # Not through the console, which would wrap it.
    typer.echo(json.dumps({"command": command, "config": dict(config), "metrics": metrics}))
