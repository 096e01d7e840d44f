"""`genprm verify`: judge every step of many solutions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli import options
from genprm.cli.boundary import FAILED, friendly, run_async, stderr, stdout
from genprm.cli.judging import FREE, Judging, opened
from genprm.runs.keep import Keep
from genprm.types import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder

EPILOG = """Examples:\n
  genprm verify solutions.jsonl --with-code --out runs/a\n
  genprm verify solutions.jsonl --model GenPRM/GenPRM-7B --votes 8\n
  genprm verify solutions.jsonl --model GenPRM/GenPRM-7B --base-url http://127.0.0.1:8000/v1\n
Exit codes: 0 all rows were judged, 1 some failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""


def verify(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="JSONL files or JSON arrays of solutions (ProcessBench as it is); - is standard input.",
            show_default=False,
        ),
    ],
    with_code: options.WithCode = None,
    mode: options.Mode = None,
    model: options.Model = "nano",
    prm: options.Family = None,
    reference: options.Reference = None,
    engine: options.Engine = "auto",
    base_url: options.BaseUrl = None,
    reference_url: options.ReferenceUrl = None,
    votes: options.Votes = "1",
    confidence: options.Confidence = None,
    until: options.Until = "end",
    temperature: options.Temperature = None,
    seed: options.Seed = 0,
    threshold: options.Threshold = DEFAULT_THRESHOLD,
    calibration: options.CalibrationFile = None,
    profile: options.ProfileFile = None,
    sandbox: options.Sandbox = "auto",
    concurrency: options.Concurrency = None,
    limit: options.Limit = None,
    keep: options.KeepOption = Keep.FULL,
    out: options.Out = None,
    clean: options.Clean = False,
    revision: options.Revision = None,
    dtype: options.Dtype = "auto",
    cluster: options.Cluster = None,
    workers: options.Workers = None,
    config: options.Config = None,
) -> None:
    """Judges every step of the solutions in FILE..., and writes a folder with all of it and a page to read it in.

    A row is a JSON object with `problem` (or `question`), and `steps` (a list of texts) or `solution` (a text, which is
    split into steps). Optional: `id`, `answer`, `label` (0-based index of the first wrong step, -1 for none), and
    `tests` (Python that raises when the solution's fenced code is wrong; it is run in the sandbox).
    """
    del context, config
    with friendly():
        most, stop_at = options.resolve_votes(votes, confidence)
        judging = Judging(
            model=model,
            family=prm,
            revision=revision,
            dtype=dtype,
            engine=engine,
            base_url=tuple(base_url or ()),
            sandbox=sandbox,
            mode=options.resolve_mode(mode, with_code),
            votes=most,
            confidence=stop_at,
            until=until,
            cluster=cluster,
            workers=workers,
            temperature=temperature,
            threshold=threshold,
            calibration=calibration,
            profile=profile,
            reference=reference,
            reference_url=tuple(reference_url or ()),
        )
        code = run_async(_verify(judging, files, seed, concurrency, limit, keep, out, clean))
    raise typer.Exit(code)


async def _verify(
    judging: Judging,
    files: list[str],
    seed: int,
    concurrency: int | None,
    limit: int | None,
    keep: Keep,
    out: Path | None,
    clean: bool,
) -> int:
    from genprm.cli.session import session_of
    from genprm.data.inputs import count_rows, read_rows
    from genprm.grading.code_tests import CodeTests
    from genprm.runs.driver import Progress
    from genprm.runs.folder import digest, open_run
    from genprm.runs.verify import default_concurrency, verify
    from genprm.sandbox import open_sandbox

    config: dict[str, JsonValue] = {
        "files": list(files),
        **judging.config(),
        "seed": seed,
        "limit": limit,
        "concurrency": concurrency,
        "keep": keep.value,
    }
    total = count_rows(files)
    if total is not None and limit is not None:
        total = min(total, limit)
    if out is None:
        stem = "stdin" if files[0] == "-" else Path(files[0]).stem
        out = Path("runs") / f"{stem}-{digest('verify', config, FREE)[:8]}"
    with open_run(out, command="verify", config=config, free=FREE, clean=clean) as run:
        progress = Progress(total)
        with session_of(run, progress, partial(_finish, run, progress)) as session:
            async with (
                opened(judging, seed, run, lambda: () if "-" in files else read_rows(files, limit=limit)) as prm,
                CodeTests(lambda: open_sandbox(judging.sandbox)) as code_tests,
            ):
                with session.working() as on_progress:
                    await verify(
                        read_rows(files, limit=limit),
                        prm,
                        run,
                        concurrency=concurrency or default_concurrency(prm.capacity, judging.votes),
                        seed=seed,
                        keep=keep,
                        code_tests=code_tests,
                        progress=progress,
                        on_progress=on_progress,
                    )
    return FAILED if progress.failed else 0


def _finish(run: RunFolder, progress: Progress, session: SessionMetrics, interrupted: bool) -> None:
    """Writes metrics and page, and prints what the run came to."""
    from genprm.benchmarks.metrics import Tally
    from genprm.cli import summary
    from genprm.report import write_page
    from genprm.runs.folder import FAILURES, METRICS, REPORT, read_rows_of, write_atomically
    from genprm.runs.rows import FailureRow, VerifyRow
    from genprm.runs.verify import finished_rows

    tally = Tally()
    few: list[VerifyRow] = []
    for row in finished_rows(run, progress):
        tally.add(row)
        if tally.rows <= summary.ROWS_SHOWN:
            few.append(row)
    metrics = tally.metrics(failed=progress.failed, session=session, interrupted=interrupted)
    write_atomically(run.path / METRICS, metrics.model_dump_json(indent=2))
    if interrupted:
        return
    page = run.path / REPORT
    left_out = write_page(
        page,
        info=run.info,
        metrics=metrics,
        rows=finished_rows(run, progress),
        failures=read_rows_of(run.path, FailureRow, FAILURES),
    )
    if tally.rows <= summary.ROWS_SHOWN:
        summary.print_rows(stdout(), sorted(few, key=lambda row: progress.keys[row.key]))
    summary.print_summary(stdout(), metrics)
    summary.print_failures(stderr(), read_rows_of(run.path, FailureRow, FAILURES), str(run.path / FAILURES))
    if others := len(run.done) - tally.rows:
        stderr().print(f"{others:,} rows in the folder are not in this input; they are kept, but not counted.")
    if left_out:
        stderr().print(f"The page lists all rows, but has no room for the texts of {left_out:,} of them.")
    stdout().print(f"page: {page}", soft_wrap=True)
