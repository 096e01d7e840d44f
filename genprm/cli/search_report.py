"""Results of searches and refinement, as tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from genprm.cli.bench_tables import percent, print_best_of_n
from genprm.cli.progress import duration

if TYPE_CHECKING:
    from genprm.benchmarks.refinement import RefineMetrics
    from genprm.benchmarks.searches import SearchMetrics

_STYLES = {
    "best-of-n": ("PRM, best", "o-", "C0"),
    "weighted": ("PRM, weighted vote", "s-", "C1"),
    "majority": ("majority", "^-", "C2"),
    # Over the same first n solutions as the others, so that no curve crosses it.
    "pass@n": ("pass@n (bound)", "--", "0.5"),
}


def print_search(console: Console, metrics: SearchMetrics) -> None:
    """Prints accuracies, tokens, and the best splits of a token budget."""
    if metrics.best_of_n is not None:
        print_best_of_n(console, metrics.best_of_n)
        console.print()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_row("problems", f"{metrics.rows:,}", f"[red]{metrics.failed:,} failed[/]" if metrics.failed else "")
    if metrics.accuracy is not None:
        interval = (
            f"[dim]95 % interval {percent(metrics.low)} to {percent(metrics.high)}, {metrics.graded:,} problems[/]"
        )
        table.add_row("accuracy of the choice", f"{percent(metrics.accuracy)} %", interval)
    details = [
        f"{metrics.solutions:,} of them distinct" if metrics.solutions < metrics.samples else "",
        f"{metrics.solutions / metrics.rows:.1f} per problem" if metrics.rows else "",
        f"{metrics.unfinished:,} unfinished (never the answer)" if metrics.unfinished else "",
    ]
    table.add_row("solutions", f"{metrics.samples:,}", f"[dim]{', '.join(filter(None, details))}[/]")
    if metrics.ungraded:
        table.add_row("not compared", f"[yellow]{metrics.ungraded:,}[/]", "[dim]the comparison did not finish[/]")
    for name, tokens in metrics.tokens.items():
        cached = f", {tokens['cached']:,} of them cached" if tokens["cached"] else ""
        detail = f"[dim]{tokens['prompt']:,} prompt tokens{cached}[/]"
        table.add_row(f"tokens, {name}", f"{tokens['generated']:,}", detail)
    if session := metrics.session:
        rate = f"[dim]{session.rows:,} problems, {session.generated_per_s:,.0f} generated tokens per second[/]"
        table.add_row("time of this run", duration(session.seconds), rate if session.rows else "[dim]nothing to do[/]")
    console.print(table)
    if metrics.budgets:
        _print_budgets(console, metrics)


def _print_budgets(console: Console, metrics: SearchMetrics) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    for name in ("tokens a problem", "solutions", "votes each", "accuracy", "95 % interval", "held out"):
        table.add_column(name, justify="right")
    for budget in metrics.budgets:
        best = budget.best
        table.add_row(
            f"{budget.tokens:,.0f}",
            f"{best.n}",
            f"{best.votes}" if best.votes else "majority",
            percent(best.accuracy),
            f"{percent(best.low)} to {percent(best.high)}",
            percent(budget.held_out),
        )
    console.print("\n[dim]The best split of each token budget, by this run's rows.[/]")
    console.print(table)
    console.print("[dim]held out: the split chosen on one half of the problems, tested on the other.[/]")


def plot(path: Path, metrics: SearchMetrics) -> bool:
    """Draws accuracy against n and tokens; returns False if there is nothing to draw or no matplotlib."""
    if metrics.best_of_n is None or len(metrics.costs) < 2:
        return False
    costly = all(point.policy + point.prm > 0 for point in metrics.costs)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    by_n, by_tokens = figure.subplots(1, 2, sharey=True)
    costs = {point.n: point for point in metrics.costs}
    for method, (label, style, colour) in _STYLES.items():
        points = [point for point in metrics.best_of_n.methods if point.method == method]
        if not points:
            continue
        accuracies = [100 * point.accuracy for point in points]
        judged = method in ("best-of-n", "weighted")
        tokens = [costs[point.n].policy + (costs[point.n].prm if judged else 0.0) for point in points]
        sizes = [point.n for point in points]
        for axes, values in ((by_n, sizes), (by_tokens, tokens)):
            axes.plot(values, accuracies, style, color=colour, label=label, markersize=4)
        if judged or method == "majority":
            low, high = [100 * point.low for point in points], [100 * point.high for point in points]
            by_n.fill_between(sizes, low, high, color=colour, alpha=0.12, linewidth=0)
    by_n.set_xscale("log", base=2)
    by_n.set_xticks(list(costs), [str(n) for n in costs])
    by_n.set_xticks([], minor=True)
    by_n.set(xlabel="solutions per problem (n)", ylabel="accuracy, %")
    if costly:
        by_tokens.set_xscale("log", base=2)
        by_tokens.xaxis.set_major_formatter("{x:,.0f}")
        by_tokens.set(xlabel="generated tokens per problem, policy and PRM")
    else:
        by_tokens.set_visible(False)
    by_n.legend(frameon=False)
    figure.savefig(path)
    return True


def print_refinement(console: Console, metrics: RefineMetrics) -> None:
    """Prints accuracy, fixed and broken answers, and tokens after each turn."""
    if metrics.turns:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in (
            "turn",
            "accuracy",
            "95 % interval",
            "refined",
            "accepted",
            "of these wrong",
            "fixed",
            "broken",
            "tokens",
        ):
            # On a narrow terminal only the longest heading wraps, not the figures.
            table.add_column(name, justify="right", no_wrap=name != "of these wrong")
        for turn in metrics.turns:
            table.add_row(
                f"{turn.turn}",
                f"[bold]{percent(turn.accuracy)}[/]",
                f"{percent(turn.low)} to {percent(turn.high)}",
                f"{turn.refined:,}",
                f"{turn.accepted:,}",
                f"{turn.accepted_wrong:,}",
                f"[green]{turn.fixed:,}[/]",
                f"[red]{turn.broken:,}[/]" if turn.broken else "0",
                f"{turn.policy + turn.prm:,.0f}",
            )
        console.print(table)
        console.print(
            f"[dim]{metrics.graded:,} problems. Each line is the result if the loop ended there. "
            "fixed, broken: against turn 0. tokens: generated per problem so far, by policy and PRM.[/]"
        )
    if metrics.failed or metrics.rows != metrics.graded:
        failed = f", [red]{metrics.failed:,} failed[/]" if metrics.failed else ""
        console.print(f"{metrics.rows:,} problems finished{failed}")
