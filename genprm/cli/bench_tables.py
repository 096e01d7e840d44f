"""Benchmark tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from genprm.benchmarks.best_of_n import BestOfNMetrics
from genprm.benchmarks.comparison import Comparison
from genprm.benchmarks.evaluation import ProcessBenchMetrics
from genprm.benchmarks.prmbench import PRMBenchMetrics


def print_processbench(console: Console, table: ProcessBenchMetrics) -> None:
    """Prints the official score and, separately, the binary one."""
    out = _table("subset", "rows", "err acc", "cor acc", "F1", "95 % interval", "guess", "blind", "open", "tokens")
    out.padding = (0, 1, 0, 0)  # fits into eighty columns
    for subset in table.subsets:
        out.add_row(
            subset.name + (" (tuned on)" if subset.name == table.tuned_on else ""),
            f"{subset.rows:,}",
            percent(subset.error_accuracy),
            percent(subset.correct_accuracy),
            f"[bold]{percent(subset.f1)}[/]",
            _interval(subset.low, subset.high),
            percent(subset.floor),
            percent(subset.blind),
            f"[yellow]{subset.undecided:,}[/]" if subset.undecided else "0",
            f"{subset.tokens:,.0f}",
        )
    if len(table.subsets) > 1:
        out.add_section()
        interval = _interval(table.macro_low, table.macro_high)
        floors = percent(table.macro_floor), percent(table.macro_blind)
        out.add_row("mean", "", "", "", f"[bold]{percent(table.macro_f1)}[/]", interval, *floors, "", "")
    console.print(out)
    if table.tuned_on is not None and table.threshold is not None:
        console.print(f"[dim]Threshold {table.threshold:.4g}, tuned on {table.tuned_on}.[/]")
    console.print(
        "[dim]err acc, cor acc: first error found, no error confirmed. guess: expected F1 of guessing. blind: the best "
        "rule that sees only the number of steps. open: no prediction. tokens: generated per row.[/]"
    )
    undecided = sum(subset.undecided for subset in table.subsets)
    if undecided:
        failed = sum(subset.failed for subset in table.subsets)
        console.print(f"[dim]{undecided:,} rows without a prediction count as wrong; {failed:,} of them failed.[/]")
    binary = ", ".join(f"{subset.name} {percent(subset.binary_f1)}" for subset in table.subsets)
    console.print(
        f"[dim]Another measure, not comparable with the one above: F1 of telling right solutions from wrong ones "
        f"(arXiv 2504.16828): {binary}.[/]"
    )
    for point in table.curve:
        console.print(f"[dim]{point.votes} votes: mean F1 {percent(point.f1)}, {point.tokens:,.0f} tokens per row[/]")


def print_prmbench(console: Console, table: PRMBenchMetrics) -> None:
    """Prints PRMScore by kind of error."""
    out = _table("kind of error", "rows", "steps", "accuracy", "F1 right", "F1 wrong", "PRMScore", "no score")
    for number, kind in enumerate([*table.classes, table.total]):
        if number == len(table.classes):
            out.add_section()
        out.add_row(
            kind.name,
            f"{kind.rows:,}",
            f"{kind.steps:,}",
            percent(kind.accuracy),
            percent(kind.f1),
            percent(kind.f1_negative),
            f"[bold]{percent(kind.prm_score)}[/]",
            f"[yellow]{kind.missing:,}[/]" if kind.missing else "0",
        )
    console.print(out)


def print_best_of_n(console: Console, table: BestOfNMetrics) -> None:
    """Prints accuracy by method and n."""
    out = _table("method", "n", "accuracy", "95 % interval")
    last = ""
    for method in table.methods:
        if last and method.method != last:
            out.add_section()
        last = method.method
        out.add_row(
            method.method, f"{method.n}", f"[bold]{percent(method.accuracy)}[/]", _interval(method.low, method.high)
        )
    console.print(out)
    console.print(
        f"[dim]{len(table.ids):,} problems. pass@n: one of the first n is right; "
        "pass@k: the same over all choices of n.[/]"
    )
    if table.unscored:
        console.print(f"[dim]{table.unscored:,} solutions without a reward rank below all others.[/]")


def print_comparison(console: Console, first: str, second: str, parts: Sequence[Comparison]) -> None:
    """Prints two runs side by side."""
    console.print(f"[dim]A[/] {first}\n[dim]B[/] {second}", soft_wrap=True)
    out = _table("", "rows", "A", "B", "B - A", "95 % interval", "p", "right in\none alone", "McNemar\np")
    out.padding = (0, 1, 0, 0)  # fits into eighty columns
    for part in parts:
        gap, rows = part.difference, part.rows_test
        out.add_row(
            part.name,
            f"{part.rows:,}",
            percent(part.first),
            percent(part.second),
            "–" if gap is None else f"{100 * gap.value:+.1f}",
            "–" if gap is None else f"{100 * gap.interval.low:+.1f} to {100 * gap.interval.high:+.1f}",
            "–" if gap is None else _p(gap.p),
            "–" if rows is None else f"{rows.first_only:,} / {rows.second_only:,}",
            "–" if rows is None else _p(rows.p),
        )
    console.print(out)
    console.print(
        "[dim]Interval and p: paired bootstrap over the rows. McNemar: exact, on rows right in A alone / in B alone.[/]"
    )


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(names):
        # Only names are wrapped where the terminal is narrow: a cut number would be another one.
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number > 0)
    return table
