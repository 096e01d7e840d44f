"""Benchmark runs: rows judged into a folder, and a table computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genprm.cli.boundary import FAILED, UsageError, stdout
from genprm.cli.verify import FREE, tell
from genprm.config import JudgeConfig, RunConfig

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import Metrics, SessionMetrics
    from genprm.data.inputs import BadRow, InputRow
    from genprm.data.pools import PoolItem
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.runs.rows import VerifyRow


Finish = Callable[["RunFolder", "Metrics", "dict[str, VerifyRow]"], "tuple[Metrics, Callable[[], None]]"]
"""Computes a benchmark's metrics from those of the run and its rows, and gives what prints them."""


async def judge_into(
    command: str,
    config: JudgeConfig,
    how: RunConfig,
    files: Sequence[str],
    rows: Sequence[InputRow | BadRow],
    finish: Finish,
) -> int:
    """Judges rows into a run's folder as `verify` does, and has `finish` compute the benchmark's table."""
    from genprm.cli.session import session_of
    from genprm.runs.driver import Progress, is_finished, kept
    from genprm.runs.folder import open_run
    from genprm.runs.opening import open_judge
    from genprm.runs.sources import sources
    from genprm.runs.verify import default_concurrency, verify

    stored: dict[str, JsonValue] = {"files": sources(files), **config.stored(), **how.stored()}
    out = how.out or _default_out(command, stored, files)
    with open_run(out, command=command, config=stored, free=FREE, clean=how.clean) as run:
        progress = Progress(len(rows))
        with session_of(run, progress, partial(_finish, run, progress, finish, how.as_json), how.track) as session:
            if is_finished(rows, run):
                await kept(rows, run, progress)
                return FAILED if progress.failed else 0
            async with open_judge(config, seed=how.seed, run=run, rows=lambda: rows, tell=tell) as judge:
                with session.working() as on_progress:
                    await verify(
                        rows,
                        judge,
                        run,
                        concurrency=how.concurrency or default_concurrency(judge.capacity, config.most_votes),
                        seed=how.seed,
                        keep=how.keep,
                        progress=progress,
                        on_progress=on_progress,
                    )
    return FAILED if progress.failed else 0


def _finish(
    run: RunFolder,
    progress: Progress,
    finish: Finish,
    as_json: bool,
    session: SessionMetrics,
    interrupted: bool,
) -> None:
    """Writes metrics and page."""
    from genprm.benchmarks.evaluation import at_threshold
    from genprm.benchmarks.metrics import Tally
    from genprm.cli.bench_metrics import BenchMetrics
    from genprm.cli.session import finish_run
    from genprm.report import write_page
    from genprm.runs.rows import FailureRow
    from genprm.runs.verify import finished_rows

    rows = {row.key: row for row in finished_rows(run, progress)}
    tally = Tally()
    for row in rows.values():
        tally.add(row)
    metrics = tally.metrics(failed=progress.failed, session=session, interrupted=interrupted)
    print_tables: Callable[[], None] = _no_table
    if not interrupted:
        metrics, print_tables = finish(run, metrics, rows)
    table = metrics.processbench if isinstance(metrics, BenchMetrics) else None
    # The page marks wrong predictions by the same threshold as the table.
    limit = None if table is None else table.threshold

    def page(path: Path, failures: list[FailureRow]) -> int:
        shown = (row if limit is None else at_threshold(row, limit) for row in rows.values())
        return write_page(path, info=run.info, metrics=metrics, rows=shown, failures=failures)

    finish_run(run, metrics, interrupted=interrupted, table=print_tables, page=page, as_json=as_json)


def _no_table() -> None:
    """Of a run that was stopped."""


def stored_rewards(how: RunConfig, files: Sequence[str], items: Sequence[PoolItem]) -> int:
    """Prints the table of a pool by its stored rewards."""
    from genprm.benchmarks.best_of_n import evaluate
    from genprm.benchmarks.metrics import Tally
    from genprm.cli.bench_metrics import BenchMetrics
    from genprm.cli.bench_tables import print_best_of_n
    from genprm.cli.session import print_json
    from genprm.runs.folder import METRICS, open_run, write_atomically
    from genprm.runs.sources import sources

    if not items:
        raise UsageError(f"there are no problems in {', '.join(map(repr, files))}")
    config: dict[str, JsonValue] = {"files": sources(files), "model": None, "limit": how.limit}
    command = "bench best-of-n"
    out = how.out or _default_out(command, config, files)
    with open_run(out, command=command, config=config, clean=how.clean) as run:
        table = evaluate(items)
        metrics = BenchMetrics(**Tally().metrics(failed=0).model_dump(), best_of_n=table)
        write_atomically(run.path / METRICS, metrics.model_dump_json(indent=2))
    if how.as_json:
        print_json(command, config, metrics.model_dump(mode="json"))
    else:
        print_best_of_n(stdout(), table)
    return 0


async def grouped(items: Sequence[PoolItem]) -> list[PoolItem]:
    """The pool with one text for equal answers, so that `1/2` and `0.5` vote together."""
    from genprm.grading.answers import AnswerChecker
    from genprm.grading.solutions import AnswerGrader

    async with AnswerChecker() as checker:
        grader = AnswerGrader(checker)
        return [replace(item, answers=tuple(await grader.group(item.answers))) for item in items]


def _default_out(command: str, config: dict[str, JsonValue], files: Sequence[str]) -> Path:
    from genprm.runs.folder import digest

    stem = "stdin" if files[0] == "-" else Path(files[0]).stem
    return Path("runs") / f"{command.replace(' ', '-')}-{stem}-{digest(command, config, FREE)[:8]}"
