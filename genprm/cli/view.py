"""`genprm view`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli.boundary import friendly, notes, stdout

if TYPE_CHECKING:
    from genprm.runs.folder import RunInfo


def view(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write the page.", show_default="report.html in the folder"),
    ] = None,
    max_mb: Annotated[
        float, typer.Option(min=0.0, help="Space for the rows' texts, in MiB; the list always has all rows.")
    ] = 64.0,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Writes a page to read a finished or running run: one HTML file that needs no network."""
    with friendly():
        page = _write(run, out, max_mb)
    stdout().print(str(page), soft_wrap=True)
    if open_:
        typer.launch(page.resolve().as_uri())


def _write(run: Path, out: Path | None, max_mb: float) -> Path:
    from genprm.benchmarks.metrics import Metrics, Tally
    from genprm.report import write_page
    from genprm.runs.folder import FAILURES, JUDGING, METRICS, REPORT, RunError, read_info, read_ordered, read_rows_of
    from genprm.runs.rows import FailureRow, VerifyRow

    info = read_info(run)
    if info.command in ("search", "refine"):
        return _write_search(run, info, out, max_mb)
    if info.command in ("label", "synthesize"):
        return _write_data(run, info, out, max_mb)
    if info.command not in JUDGING:
        raise RunError(
            f"{str(run)!r} is a run of {info.command!r}: "
            "runs of verify, serve, bench, search, refine, label and synthesize have a page"
        )
    failures = list(read_rows_of(run, FailureRow, FAILURES))
    tally = Tally()
    for row in read_rows_of(run, VerifyRow):
        tally.add(row)
    metrics = tally.metrics(failed=len(failures))
    stored = run / METRICS
    if stored.exists():
        before = Metrics.model_validate_json(stored.read_bytes())
        metrics = metrics.model_copy(update={"session": before.session, "interrupted": before.interrupted})
    page = out or run / REPORT
    left_out = write_page(
        page, info=info, metrics=metrics, rows=read_ordered(run, VerifyRow), failures=failures, max_mb=max_mb
    )
    if left_out:
        notes().print(f"The page lists all rows, without the texts of {left_out:,} that did not fit (--max-mb).")
    return page


def _write_search(run: Path, info: RunInfo, out: Path | None, max_mb: float) -> Path:
    from genprm.benchmarks.refinement import RefineMetrics, evaluate_refinement
    from genprm.benchmarks.searches import SearchMetrics, evaluate_searches
    from genprm.report.search_page import write_search_page
    from genprm.runs.folder import FAILURES, METRICS, REPORT, read_ordered, read_rows_of
    from genprm.runs.rows import FailureRow
    from genprm.search.rows import RefineRow, SearchRow
    from genprm.search.run import Method

    failures = list(read_rows_of(run, FailureRow, FAILURES))
    stored = (run / METRICS).read_bytes() if (run / METRICS).exists() else None
    page = out or run / REPORT
    if info.command == "refine":
        turns = list(read_ordered(run, RefineRow))
        mended = evaluate_refinement(turns, failed=len(failures))
        mended = RefineMetrics.model_validate_json(stored) if stored else mended
        left_out = write_search_page(page, info=info, metrics=mended, rows=turns, failures=failures, max_mb=max_mb)
    else:
        rows = list(read_ordered(run, SearchRow))
        found = evaluate_searches(rows, Method(str(info.config["method"])), failed=len(failures))
        found = SearchMetrics.model_validate_json(stored) if stored else found
        left_out = write_search_page(page, info=info, metrics=found, rows=rows, failures=failures, max_mb=max_mb)
    if left_out:
        notes().print(f"The page lists all problems, without the details of {left_out:,} that did not fit (--max-mb).")
    return page


def _write_data(run: Path, info: RunInfo, out: Path | None, max_mb: float) -> Path:
    from genprm.report.data_page import write_label_page, write_synthesis_page
    from genprm.rpe.rows import LabelRow, SynthesisRow
    from genprm.runs.folder import FAILURES, REPORT, read_ordered, read_rows_of
    from genprm.runs.rows import FailureRow

    failures = list(read_rows_of(run, FailureRow, FAILURES))
    page = out or run / REPORT
    if info.command == "label":
        problems = list(read_ordered(run, LabelRow))
        left_out = write_label_page(page, info=info, rows=problems, failures=failures, max_mb=max_mb)
    else:
        solutions = list(read_ordered(run, SynthesisRow))
        left_out = write_synthesis_page(page, info=info, rows=solutions, failures=failures, max_mb=max_mb)
    if left_out:
        notes().print(f"The page lists all rows, without the details of {left_out:,} that did not fit (--max-mb).")
    return page
