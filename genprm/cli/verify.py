"""`genprm verify`: judge every step of many solutions."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli.boundary import FAILED, UsageError, notes, run_async, stdout
from genprm.cli.terminal import counted
from genprm.config import JudgeConfig, RunConfig
from genprm.fields import free_fields

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder

FREE = (*free_fields(JudgeConfig), *free_fields(RunConfig))
"""Settings that do not change results: they may differ when a run is resumed."""

EPILOG = """Examples:\n
  genprm verify solutions.jsonl --with-code --out runs/a\n
  genprm verify solutions.jsonl --model GenPRM/GenPRM-7B --votes 8\n
  genprm verify solutions.jsonl --model GenPRM/GenPRM-7B --base-url http://127.0.0.1:8000/v1\n
Exit codes: 0 all rows were judged, 1 some failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""


def verify(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="JSONL files or JSON arrays of solutions (also ProcessBench's); - is standard input.",
            show_default=False,
        ),
    ],
    judge: JudgeConfig,
    run: RunConfig,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Judge only part K of N of the rows: N drivers share a run, `genprm merge` joins their parts.",
            show_default="all rows",
        ),
    ] = None,
) -> None:
    """Judges every step of the solutions in FILE..., and writes a folder with the results and a page to read them.

    A row is a JSON object with `problem` (or `question`), and `steps` (a list of texts) or `solution` (a text, which is
    split into steps). Optional: `id`, `answer`, `label` (0-based index of the first wrong step, -1 for none), and
    `tests` (Python that raises when the solution's fenced code is wrong; it runs in the sandbox).
    """
    raise typer.Exit(run_async(_verify(files, judge, run, shard)))


async def _verify(files: list[str], config: JudgeConfig, how: RunConfig, part: str | None) -> int:
    from genprm.cli.session import session_of
    from genprm.data.inputs import count_rows, read_rows
    from genprm.data.records import STDIN, can_be_read_twice
    from genprm.grading.code_tests import CodeTests
    from genprm.runs.driver import Progress, is_finished, kept
    from genprm.runs.folder import digest, open_run
    from genprm.runs.opening import open_judge
    from genprm.runs.shards import Shard, within
    from genprm.runs.sources import sources
    from genprm.runs.verify import default_concurrency, verify

    if STDIN in files and sys.stdin.isatty():
        tell("Reading rows from standard input; Ctrl-D ends them.")
    try:
        shard = None if part is None else Shard.parse(part)
    except ValueError as error:
        raise UsageError(f"--shard: {error}") from None
    stored: dict[str, JsonValue] = {"files": sources(files), **config.stored(), **how.stored()}
    total = count_rows(files)
    if total is not None:
        total = min(total, how.limit or total, how.sample or total)
    out = how.out
    if out is None:
        stem = "stdin" if files[0] == "-" else Path(files[0]).stem
        out = Path("runs") / f"{stem}-{digest('verify', stored, FREE)[:8]}"
    read = partial(read_rows, files, limit=how.limit, sample=how.sample, seed=how.seed)
    twice = can_be_read_twice(files)
    if shard is not None:
        out /= shard.folder
        read = partial(within, shard, read)
        total = sum(1 for _ in read()) if twice else None
    again = read if twice else tuple
    with open_run(out, command="verify", config=stored, free=FREE, clean=how.clean) as run:
        progress = Progress(total)
        with session_of(run, progress, partial(_finish, run, progress, how.as_json), how.track) as session:
            if twice and is_finished(read(), run):
                await kept(read(), run, progress)
                return FAILED if progress.failed else 0
            async with (
                open_judge(config, seed=how.seed, run=run, rows=again, tell=tell) as judge,
                CodeTests(config.open_sandbox) as code_tests,
            ):
                with session.working() as on_progress:
                    await verify(
                        read(),
                        judge,
                        run,
                        concurrency=how.concurrency or default_concurrency(judge.capacity, config.most_votes),
                        seed=how.seed,
                        keep=how.keep,
                        code_tests=code_tests,
                        progress=progress,
                        on_progress=on_progress,
                    )
    return FAILED if progress.failed else 0


def tell(message: str) -> None:
    """Says something about what was opened."""
    notes().print(message, soft_wrap=True, markup=False)


def _finish(run: RunFolder, progress: Progress, as_json: bool, session: SessionMetrics, interrupted: bool) -> None:
    """Writes metrics and page, and prints the result."""
    from genprm.benchmarks.metrics import Tally
    from genprm.cli import summary
    from genprm.cli.session import finish_run
    from genprm.report import write_page
    from genprm.runs.rows import FailureRow, VerifyRow
    from genprm.runs.verify import finished_rows

    tally = Tally()
    few: list[VerifyRow] = []
    for row in finished_rows(run, progress):
        tally.add(row)
        if tally.rows <= summary.ROWS_SHOWN:
            few.append(row)
    metrics = tally.metrics(failed=progress.failed, session=session, interrupted=interrupted)

    def page(path: Path, failures: list[FailureRow]) -> int:
        rows = finished_rows(run, progress)
        return write_page(path, info=run.info, metrics=metrics, rows=rows, failures=failures)

    def table() -> None:
        if tally.rows <= summary.ROWS_SHOWN:
            summary.print_rows(stdout(), sorted(few, key=lambda row: progress.keys[row.key]))
        summary.print_summary(stdout(), metrics)

    def more() -> None:
        if others := len(run.done) - tally.rows:
            rows = counted(others, "row")
            notes().print(f"{rows} in the folder not in this input: kept but not counted.")

    finish_run(run, metrics, interrupted=interrupted, table=table, page=page, more=more, as_json=as_json)
