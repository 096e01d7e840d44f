"""What stands around the work of a batch command: what it says, the time it takes, and its end, orderly or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from genprm.cli.boundary import stderr
from genprm.cli.progress import shown

if TYPE_CHECKING:
    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder


class Session:
    """One run of a command on a run's folder. Its time counts from the call of `working`, when the models are open."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    @contextmanager
    def working(self) -> Generator[Callable[[Progress], None]]:
        """Shows progress; gives what is to be called after every row."""
        self.started = time.perf_counter()
        with shown(stderr()) as on_progress:
            yield on_progress


@contextmanager
def session_of(
    run: RunFolder, progress: Progress, finish: Callable[[SessionMetrics, bool], None]
) -> Generator[Session]:
    """Says what is there already, and has `finish` sum up, also where the work was stopped or given up.

    Args:
        run: the folder.
        progress: counted up by the work.
        finish: writes metrics and page; told what this run did, and whether it was interrupted.

    Raises:
        CancelledError: the work was stopped; `finish` has been called.
        BatchError: it was given up; `finish` has been called.
    """
    import asyncio

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import BatchError

    if run.done:
        stderr().print(f"Going on with {run.path}: {len(run.done):,} rows are there.", soft_wrap=True)
    session = Session()
    stopped: BaseException | None = None
    try:
        yield session
    except (asyncio.CancelledError, BatchError) as error:
        stopped = error
    seconds = time.perf_counter() - session.started
    did = SessionMetrics(
        rows=progress.judged,
        failed=progress.failed,
        seconds=round(seconds, 3),
        generated_per_s=round(progress.generated / seconds, 1) if seconds > 0 else 0.0,
    )
    finish(did, stopped is not None)
    if stopped is not None:
        stderr().print(f"Stopped. {len(run.done):,} rows are kept; the same command goes on from there.")
        raise stopped
