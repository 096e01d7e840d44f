"""`metrics.json` of benchmark runs, and the comparison of two runs."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from genprm.benchmarks.best_of_n import BestOfNMetrics
from genprm.benchmarks.comparison import (
    Comparison,
    compare_best_of_n,
    compare_first_errors,
    compare_prmbench,
    read_first_errors,
)
from genprm.benchmarks.evaluation import ProcessBenchMetrics
from genprm.benchmarks.metrics import Metrics
from genprm.benchmarks.prmbench import PRMBenchMetrics
from genprm.cli.boundary import UsageError
from genprm.runs.folder import METRICS, RunError, read_info

_FIRST_ERRORS = ("verify", "bench processbench")
_CHOICES = ("search", "bench best-of-n")
"""Commands whose runs choose among solutions."""


class BenchMetrics(Metrics):
    """`metrics.json` of a benchmark: the counts and the table."""

    processbench: ProcessBenchMetrics | None = None
    prmbench: PRMBenchMetrics | None = None
    best_of_n: BestOfNMetrics | None = None


def compare_runs(first: Path, second: Path) -> list[Comparison]:
    """Compares two runs of the same benchmark.

    Raises:
        RunError: a folder is not a finished run.
        UsageError: the runs are not of the same kind, or have nothing in common.
    """
    commands = [read_info(path).command for path in (first, second)]
    try:
        if all(command in _FIRST_ERRORS for command in commands):
            return compare_first_errors(read_first_errors(first), read_first_errors(second))
        if commands[0] != commands[1] and not all(command in _CHOICES for command in commands):
            raise UsageError(f"a run of {commands[0]!r} cannot be compared with one of {commands[1]!r}")
        a, b = (_metrics(path) for path in (first, second))
        if a.prmbench and b.prmbench:
            return compare_prmbench(a.prmbench, b.prmbench)
        if a.best_of_n and b.best_of_n:
            return compare_best_of_n(a.best_of_n, b.best_of_n)
    except ValueError as error:
        raise UsageError(str(error)) from None
    raise UsageError(f"there is nothing to compare in runs of {commands[0]!r}")


def plot_curve(path: Path, table: ProcessBenchMetrics) -> bool:
    """Draws F1 against votes and against tokens; returns False if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    scores = [100 * point.f1 for point in table.curve]
    votes = [point.votes for point in table.curve]
    for position, (values, label) in enumerate(
        [(votes, "votes"), ([point.tokens for point in table.curve], "generated tokens per solution")], start=1
    ):
        axes = figure.add_subplot(1, 2, position)
        axes.plot(values, scores, marker="o")
        if table.macro_floor is not None:
            axes.axhline(100 * table.macro_floor, color="0.6", linestyle="--", linewidth=1, label="uniform guess")
        if table.macro_blind is not None:
            axes.axhline(100 * table.macro_blind, color="0.6", linestyle=":", linewidth=1, label="blind to the steps")
        if table.macro_floor is not None or table.macro_blind is not None:
            axes.legend(frameon=False)
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:,.0f}" for value in values])
        axes.set_xticks([], minor=True)
        axes.set(xlabel=label, ylabel="mean F1, %")
    figure.savefig(path)
    return True


class _Tables(BaseModel):
    """The parts of `metrics.json` that are compared; other keys are ignored."""

    prmbench: PRMBenchMetrics | None = None
    best_of_n: BestOfNMetrics | None = None


def _metrics(path: Path) -> _Tables:
    try:
        return _Tables.model_validate_json((path / METRICS).read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"the run in {str(path)!r} is not finished: it has no {METRICS}") from error
