"""The runs of benchmarks: rows judged into a folder, and a table computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genprm.cli.boundary import FAILED, UsageError, stderr, stdout
from genprm.cli.judging import FREE, Judging, opened
from genprm.runs.keep import Keep

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import Metrics, SessionMetrics
    from genprm.data.inputs import BadRow, InputRow
    from genprm.data.pools import PoolItem
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.runs.rows import VerifyRow


@dataclass(frozen=True, slots=True)
class Batch:
    """How a run is made: the options that concern no model."""

    seed: int
    concurrency: int | None
    limit: int | None
    keep: Keep
    out: Path | None
    clean: bool


async def judge(
    command: str,
    judging: Judging,
    batch: Batch,
    files: Sequence[str],
    rows: Sequence[InputRow | BadRow],
    finish: Callable[[RunFolder, Metrics, dict[str, VerifyRow]], Metrics],
) -> int:
    """Judges rows into a run's folder as `verify` does, and has `finish` compute and print the benchmark's table."""
    from genprm.cli.session import session_of
    from genprm.runs.driver import Progress
    from genprm.runs.folder import open_run
    from genprm.runs.verify import default_concurrency, verify

    config: dict[str, JsonValue] = {
        "files": list(files),
        **judging.config(),
        "seed": batch.seed,
        "limit": batch.limit,
        "concurrency": batch.concurrency,
        "keep": batch.keep.value,
    }
    out = batch.out or _default_out(command, config, files)
    with open_run(out, command=command, config=config, free=FREE, clean=batch.clean) as run:
        progress = Progress(len(rows))
        with session_of(run, progress, partial(_finish, run, progress, finish)) as session:
            async with opened(judging, batch.seed, run, lambda: rows) as prm:
                with session.working() as on_progress:
                    await verify(
                        rows,
                        prm,
                        run,
                        concurrency=batch.concurrency or default_concurrency(prm.capacity, judging.votes),
                        seed=batch.seed,
                        keep=batch.keep,
                        progress=progress,
                        on_progress=on_progress,
                    )
    return FAILED if progress.failed else 0


def _finish(
    run: RunFolder,
    progress: Progress,
    finish: Callable[[RunFolder, Metrics, dict[str, VerifyRow]], Metrics],
    session: SessionMetrics,
    interrupted: bool,
) -> None:
    """Writes metrics and page."""
    from genprm.benchmarks.evaluation import at_threshold
    from genprm.benchmarks.metrics import Tally
    from genprm.cli import summary
    from genprm.cli.bench_metrics import BenchMetrics
    from genprm.report import write_page
    from genprm.runs.folder import FAILURES, METRICS, REPORT, read_rows_of, write_atomically
    from genprm.runs.rows import FailureRow
    from genprm.runs.verify import finished_rows

    rows = {row.key: row for row in finished_rows(run, progress)}
    tally = Tally()
    for row in rows.values():
        tally.add(row)
    metrics = tally.metrics(failed=progress.failed, session=session, interrupted=interrupted)
    if not interrupted:
        metrics = finish(run, metrics, rows)
    write_atomically(run.path / METRICS, metrics.model_dump_json(indent=2))
    if interrupted:
        return
    failures = list(read_rows_of(run.path, FailureRow, FAILURES))
    page = run.path / REPORT
    table = metrics.processbench if isinstance(metrics, BenchMetrics) else None
    # The page shows which rows were got wrong by the threshold that the table is computed with.
    limit = None if table is None else table.threshold
    shown = (row if limit is None else at_threshold(row, limit) for row in rows.values())
    left_out = write_page(page, info=run.info, metrics=metrics, rows=shown, failures=failures)
    summary.print_failures(stderr(), failures, str(run.path / FAILURES))
    if left_out:
        stderr().print(f"The page lists all rows, but has no room for the texts of {left_out:,} of them.")
    stdout().print(f"page: {page}", soft_wrap=True)


def stored_rewards(batch: Batch, files: Sequence[str], items: Sequence[PoolItem]) -> int:
    """The table of a pool by what is stored in it."""
    from genprm.benchmarks.best_of_n import evaluate
    from genprm.benchmarks.metrics import Tally
    from genprm.cli.bench_metrics import BenchMetrics
    from genprm.cli.bench_tables import print_best_of_n
    from genprm.runs.folder import METRICS, open_run, write_atomically

    if not items:
        raise UsageError(f"there are no problems in {', '.join(map(repr, files))}")
    config: dict[str, JsonValue] = {"files": list(files), "model": None, "limit": batch.limit}
    command = "bench best-of-n"
    out = batch.out or _default_out(command, config, files)
    with open_run(out, command=command, config=config, clean=batch.clean) as run:
        table = evaluate(items)
        metrics = BenchMetrics(**Tally().metrics(failed=0).model_dump(), best_of_n=table)
        write_atomically(run.path / METRICS, metrics.model_dump_json(indent=2))
    print_best_of_n(stdout(), table)
    return 0


def _default_out(command: str, config: dict[str, JsonValue], files: Sequence[str]) -> Path:
    from genprm.runs.folder import digest

    stem = "stdin" if files[0] == "-" else Path(files[0]).stem
    return Path("runs") / f"{command.replace(' ', '-')}-{stem}-{digest(command, config, FREE)[:8]}"
