"""`genprm show`: the tables of a run, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from genprm.cli.boundary import friendly, stderr, stdout
from genprm.cli.session import print_json

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.runs.folder import RunInfo


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: command, config, metrics.")] = False,
) -> None:
    """Prints the tables of a finished or running run again. Loads no model and no sandbox."""
    with friendly():
        from genprm.runs.folder import read_info

        info = read_info(run)
        if as_json:
            print_json(info.command, info.config, _metrics(run, info))
        else:
            _tables(run, info)


def _metrics(run: Path, info: RunInfo) -> JsonValue:
    """`metrics.json`, or counts from the rows if there is none yet; None if they cannot be counted."""
    import json

    from genprm.benchmarks.metrics import Tally
    from genprm.runs.folder import FAILURES, JUDGING, METRICS, read_rows_of
    from genprm.runs.rows import FailureRow, VerifyRow

    if (stored := run / METRICS).exists():
        return json.loads(stored.read_text(encoding="utf-8"))
    if info.command not in JUDGING:
        return None
    tally = Tally()
    for row in read_rows_of(run, VerifyRow):
        tally.add(row)
    failed = sum(1 for _ in read_rows_of(run, FailureRow, FAILURES))
    return tally.metrics(failed=failed).model_dump(mode="json")


def _tables(run: Path, info: RunInfo) -> None:
    from genprm.benchmarks.metrics import Metrics
    from genprm.benchmarks.refinement import RefineMetrics
    from genprm.benchmarks.searches import SearchMetrics
    from genprm.cli import summary
    from genprm.cli.bench_metrics import BenchMetrics
    from genprm.cli.bench_tables import print_best_of_n, print_prmbench, print_processbench
    from genprm.cli.search_report import print_refinement, print_search
    from genprm.runs.folder import FAILURES, ROWS, RunError, read_ordered, read_rows_of
    from genprm.runs.rows import FailureRow, VerifyRow

    console = stdout()
    console.print(f"[bold]{info.command}[/], started {info.started}", soft_wrap=True)
    metrics = _metrics(run, info)
    if not isinstance(metrics, dict):
        raise RunError(f"{str(run)!r} has no metrics yet: the run was stopped. The same command resumes it.")
    match info.command:
        case "search":
            print_search(console, SearchMetrics.model_validate(metrics))
        case "refine":
            print_refinement(console, RefineMetrics.model_validate(metrics))
        case "label" | "synthesize":
            counts = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
            summary.print_counts(console, counts)
        case "loop":
            summary.print_stages(console, cast("Any", metrics["stages"]))
            if metrics["stopped"]:
                stderr().print(f"Stopped: {metrics['stopped']}", markup=False, soft_wrap=True)
        case "train sft" | "train discriminative" | "train implicit":
            summary.print_training(console, metrics)
        case _:
            if info.command in ("verify", "serve") and _lines(run / ROWS) <= summary.ROWS_SHOWN:
                summary.print_rows(console, read_ordered(run, VerifyRow))
            tables = BenchMetrics.model_validate(metrics)
            if tables.processbench is not None:
                print_processbench(console, tables.processbench)
            if tables.prmbench is not None:
                print_prmbench(console, tables.prmbench)
            if tables.best_of_n is not None:
                print_best_of_n(console, tables.best_of_n)
            summary.print_summary(console, Metrics.model_validate(metrics))
    summary.print_failures(stderr(), read_rows_of(run, FailureRow, FAILURES), str(run / FAILURES))


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
