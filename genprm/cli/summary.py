"""The results of a run, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from genprm.benchmarks.metrics import Metrics
from genprm.cli.progress import duration
from genprm.cli.terminal import counted
from genprm.runs.rows import FailureRow, VerifyRow

ROWS_SHOWN = 20
"""Runs up to this size are shown row by row."""
_FAILURES_SHOWN = 5


def print_rows(console: Console, rows: Iterable[VerifyRow]) -> None:
    """Prints one line per solution: its scores, its first error, and whether the label agrees.

    Steps are counted from 1 here and in the page, and from 0 in files, as the benchmarks do.
    """
    rows = list(rows)
    labelled = any(row.label is not None for row in rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("solution", "score of each step", "first error", *(["label"] if labelled else [])):
        table.add_column(name, header_style="dim", overflow="fold")
    for row in rows:
        cells = [Text(row.id or row.key), _scores(row), _where(row)]
        if labelled:
            cells.append(_label(row))
        table.add_row(*cells)
    console.print(table)
    console.print()


def print_summary(console: Console, metrics: Metrics) -> None:
    """Prints the counts of a run."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_row("solutions judged", f"{metrics.rows:,}", "")
    table.add_row("  no wrong step", f"{metrics.judged_right:,}", "")
    first = ", ".join(f"step {int(index) + 1}: {count:,}" for index, count in list(metrics.first_errors.items())[:8])
    table.add_row("  a wrong step", f"{metrics.judged_wrong:,}", f"[dim]first at {first}[/]" if first else "")
    if metrics.undecided:
        reasons = [f"{count:,}: {escape(reason)}" for reason, count in metrics.undecided_reasons.items()]
        table.add_row("  undecided", f"[yellow]{metrics.undecided:,}[/]", f"[dim]{chr(10).join(reasons[:3])}[/]")
    if metrics.failed:
        table.add_row("failed", f"[red]{metrics.failed:,}[/]", "[dim]retried by the next run[/]")
    if metrics.labels:
        labels = metrics.labels
        detail = (
            f"[dim]first error found {_percent(labels.error_accuracy)} of {labels.errors:,}, "
            f"no error confirmed {_percent(labels.correct_accuracy)} of {labels.correct:,}[/]"
        )
        table.add_row("F1 against labels", _percent(labels.f1), detail)
    if metrics.code:
        statuses = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in metrics.code.items())
        table.add_row("snippets", f"{sum(metrics.code.values()):,}", f"[dim]{statuses}[/]")
    tokens = metrics.tokens
    cached = f", {_percent(tokens['cached'] / tokens['prompt'])} from cache" if tokens["cached"] else ""
    saved = f", {tokens['saved']:,} saved by stopping early" if tokens["saved"] else ""
    prompt = f"[dim]{tokens['prompt']:,} prompt tokens{cached}{saved}[/]"
    table.add_row("generated tokens", f"{tokens['generated']:,}", prompt)
    if session := metrics.session:
        rate = (
            f"[dim]{counted(session.rows, 'solution')}, {session.generated_per_s:,.0f} generated tokens per second[/]"
        )
        table.add_row("time of this run", duration(session.seconds), rate if session.rows else "[dim]nothing to do[/]")
    console.print(table)


def print_counts(console: Console, counts: Mapping[str, float]) -> None:
    """Prints named counts and rates, one per line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", overflow="fold")
    table.add_column(justify="right")
    for name, value in counts.items():
        table.add_row(escape(name.replace("_", " ")), f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
    console.print(table)


def print_training(console: Console, metrics: Mapping[str, Any]) -> None:
    """Prints the results of a training run: its `metrics.json`."""
    counts = {"steps": metrics["steps"], "loss": metrics["loss"], **metrics["metrics"], "seconds": metrics["seconds"]}
    print_counts(console, {name: value for name, value in counts.items() if value is not None})


def print_stages(console: Console, stages: Iterable[Mapping[str, Any]]) -> None:
    """Prints the results of a loop's stages, without those that are 0 or unknown."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("stage", "time", "results"):
        table.add_column(name, header_style="dim", overflow="fold")
    for stage in stages:
        figures = {name: value for name, value in stage["figures"].items() if value}
        results = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
        table.add_row(escape(stage["key"]), duration(stage["seconds"]), escape(results))
    console.print(table)


def print_failures(console: Console, failures: Iterable[FailureRow], path: str) -> None:
    """Prints the first few failures, and where the others are."""
    failures = iter(failures)
    for failure in (found for _, found in zip(range(_FAILURES_SHOWN), failures, strict=False)):
        where = escape(f"{failure.file}, line {failure.line}: {failure.reason}")
        console.print(f"[red]failed[/] {where}", soft_wrap=True)
    if next(failures, None) is not None:
        console.print(f"[dim]... the others are in {escape(path)}[/]", soft_wrap=True)


def _scores(row: VerifyRow) -> Text:
    text = Text()
    whole = None if row.solution is None else row.solution.score
    # A judge of whole solutions may label no step: only dashes would hide its verdict.
    if whole is None or any(score is not None for score in row.scores):
        for score in row.scores:
            text.append_text(_score(score, row.threshold)).append("  ")
    if whole is not None:
        text.append_text(_score(whole, row.threshold)).append(" as a whole", style="dim")
    return text


def _score(score: float | None, threshold: float) -> Text:
    style = "yellow" if score is None else "red" if score < threshold else "green"
    return Text(" –  " if score is None else f"{score:.2f}", style=style)


def _where(row: VerifyRow) -> Text:
    if row.first_error is None:
        return Text("undecided", style="yellow").append(f": {row.reason}" if row.reason else "")
    found = row.first_error
    return Text("none", style="green") if found < 0 else Text(f"step {found + 1}", style="red")


def _label(row: VerifyRow) -> Text:
    if row.label is None:
        return Text("")
    agrees = row.label == row.first_error
    text = Text("none" if row.label < 0 else f"step {row.label + 1}")
    return text.append("  ✓" if agrees else "  ✗", style="green" if agrees else "red")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
