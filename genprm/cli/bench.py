"""`genprm bench`: public benchmarks, and comparison of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genprm.cli.bench_runs import grouped, judge_into, stored_rewards
from genprm.cli.boundary import UsageError, friendly, notes, run_async, stdout
from genprm.cli.grammar import Command
from genprm.cli.options import Options, command
from genprm.config import JudgeConfig, Keep, RunConfig

if TYPE_CHECKING:
    from genprm.benchmarks.metrics import Metrics
    from genprm.data.inputs import BadRow, InputRow
    from genprm.data.pools import PoolItem
    from genprm.runs.folder import RunFolder
    from genprm.runs.rows import VerifyRow

app = typer.Typer(
    help="Measures judges on ProcessBench, PRMBench and best-of-n pools, and compares runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Finished = tuple["Metrics", Callable[[], None]]
AggregateName = Literal["min", "mean", "last", "product", "solution"]


@command(app, "processbench")
def processbench(
    judge: JudgeConfig,
    run: RunConfig,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="ProcessBench's files, one per subset.", show_default="the published data set"
        ),
    ] = None,
    tune_on: Annotated[
        str | None,
        typer.Option(
            help="Tune the threshold on this subset and apply it to the others. Its own score is then in-sample.",
            show_default="none: --threshold is used",
        ),
    ] = None,
) -> None:
    """Finds the first wrong step of every solution in FILE..., and computes ProcessBench's official F1.

    A row without a prediction counts as wrong. Intervals are 95 % bootstrap intervals over the rows of a subset.
    """
    raise typer.Exit(run_async(processbench_into(files, judge, run, tune_on)))


async def processbench_into(
    files: Sequence[str] | None, judge: JudgeConfig, run: RunConfig, tune_on: str | None = None
) -> int:
    """Judges labelled solutions into a run's folder, with ProcessBench's table. Returns the exit code.

    Raises:
        UsageError: there are no labels, or no such subset.
    """
    from genprm.benchmarks.processbench import SUBSETS, subset_of
    from genprm.data.inputs import InputRow, read_rows

    files = files or [f"hf://Qwen/ProcessBench/{subset}" for subset in SUBSETS]
    rows = list(read_rows(files, limit=run.limit, sample=run.sample, seed=run.seed))
    labelled = [row for row in rows if isinstance(row, InputRow) and row.label is not None]
    if not labelled:
        raise UsageError(f"no row in {', '.join(map(repr, files))} has a label; use `genprm verify`, which needs none")
    if tune_on is not None and tune_on not in (names := sorted({subset_of(row.id, row.file) for row in labelled})):
        raise UsageError(f"there is no subset {tune_on!r} to tune on; the subsets are {', '.join(names)}")

    def finish(folder: RunFolder, metrics: Metrics, judged: dict[str, VerifyRow]) -> Finished:
        return _finish_processbench(folder, metrics, judged, labelled, tune_on)

    return await judge_into("bench processbench", judge, run, files, rows, finish)


@command(app, "prmbench")
def prmbench(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="PRMBench's JSONL file.", show_default=False)],
    judge: JudgeConfig,
    run: RunConfig,
) -> None:
    """Judges every step of the solutions in FILE..., and computes PRMScore for each kind of error.

    A step is judged right when its score is above the threshold; a step without a score counts as misjudged.
    """
    from genprm.benchmarks.prmbench import PRMBenchItem, read_prmbench

    read = list(read_prmbench(files, limit=run.limit, sample=run.sample, seed=run.seed))
    items = [item for item in read if isinstance(item, PRMBenchItem)]
    if not items:
        raise UsageError(f"no row in {', '.join(map(repr, files))} is a PRMBench row")

    def finish(folder: RunFolder, metrics: Metrics, rows: dict[str, VerifyRow]) -> Finished:
        from genprm.benchmarks.prmbench import evaluate
        from genprm.cli.bench_metrics import BenchMetrics
        from genprm.cli.bench_tables import print_prmbench

        table = evaluate(items, rows)
        return BenchMetrics(**metrics.model_dump(), prmbench=table), partial(print_prmbench, stdout(), table)

    inputs = [item.row if isinstance(item, PRMBenchItem) else item for item in read]
    raise typer.Exit(run_async(judge_into("bench prmbench", judge, run, files, inputs, finish)))


@command(app, "best-of-n")
def best_of_n(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="A pool: JSONL, one problem with several solutions per line.", show_default=False
        ),
    ],
    judge: Annotated[JudgeConfig, Options(without=("model",))],
    run: Annotated[RunConfig, Options(defaults={"keep": Keep.SCORES})],
    model: Annotated[
        str | None,
        typer.Option(
            help="Judge the solutions with this model.",
            envvar="GENPRM_MODEL",
            show_envvar=False,
            show_default="none: the pool's stored rewards are used",
        ),
    ] = None,
    aggregate: Annotated[
        AggregateName | None,
        typer.Option(
            help="How step scores become a solution's reward; `solution` is the judge's score of the whole.",
            show_default="solution if the judge gives one, else min",
        ),
    ] = None,
) -> None:
    """Picks one of several solutions, and computes how often it is right: best reward, votes, and upper bounds."""
    from genprm.data.pools import PoolItem, read_pool

    items: list[PoolItem] = []
    for item in read_pool(files, limit=run.limit, sample=run.sample, seed=run.seed):
        if isinstance(item, PoolItem):
            items.append(item)
        elif item.duplicate:
            notes().print(f"skipped: {item.file}, line {item.line}, is {item.reason}", soft_wrap=True, markup=False)
        else:
            raise UsageError(f"{item.file}, line {item.line}: {item.reason}")
    items = run_async(grouped(items))
    if model is None:
        raise typer.Exit(stored_rewards(run, files, items))
    inputs = [list(rows) for rows in _solutions(items)]

    def finish(folder: RunFolder, metrics: Metrics, rows: dict[str, VerifyRow]) -> Finished:
        from genprm.benchmarks.best_of_n import evaluate
        from genprm.cli.bench_metrics import BenchMetrics
        from genprm.cli.bench_tables import print_best_of_n

        rewards = [[_reward(rows.get(getattr(row, "key", "")), aggregate) for row in group] for group in inputs]
        table = evaluate(items, rewards)
        return BenchMetrics(**metrics.model_dump(), best_of_n=table), partial(print_best_of_n, stdout(), table)

    flat = [row for group in inputs for row in group]
    config = judge.model_copy(update={"model": model})
    raise typer.Exit(run_async(judge_into("bench best-of-n", config, run, files, flat, finish)))


@app.command("compare", cls=Command, epilog="Example:\n\n  genprm bench compare runs/bon runs/beam")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a run.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as one JSON array.")] = False,
) -> None:
    """Compares two runs over the same inputs: paired bootstrap of the scores, McNemar's test of the rows.

    Accepts runs of `genprm bench`, `genprm verify`, `genprm search` and `genprm refine`.
    """
    with friendly():
        from genprm.cli.bench_metrics import compare_runs
        from genprm.cli.bench_tables import print_comparison

        parts = compare_runs(first, second)
        if as_json:
            import json
            from dataclasses import asdict

            typer.echo(json.dumps([asdict(part) for part in parts]))
        else:
            print_comparison(stdout(), str(first), str(second), parts)


def _finish_processbench(
    run: RunFolder, metrics: Metrics, rows: dict[str, VerifyRow], inputs: list[InputRow], tune_on: str | None
) -> Finished:
    from genprm.benchmarks.evaluation import evaluate, items_of
    from genprm.cli.bench_metrics import BenchMetrics, plot_curve
    from genprm.cli.bench_tables import print_processbench

    try:
        table = evaluate(items_of(inputs, rows), tune_on=tune_on)
    except ValueError as error:
        raise UsageError(str(error)) from None
    curve = len(table.curve) > 1 and plot_curve(run.path / "f1.svg", table)

    def tables() -> None:
        print_processbench(stdout(), table)
        if curve:
            stdout().print(f"F1 against votes and tokens: {run.path / 'f1.svg'}", soft_wrap=True)

    return BenchMetrics(**metrics.model_dump(), processbench=table), tables


def _solutions(items: Sequence[PoolItem]) -> Iterator[Iterator[InputRow | BadRow]]:
    from genprm.data.inputs import Record, parse_row

    for item in items:
        rows = (
            {"problem": item.problem, "solution": solution, "id": f"{item.id}/{number}"}
            for number, solution in enumerate(item.solutions)
        )
        yield (parse_row(Record(item.file, item.line, row)) for row in rows)


def _reward(row: VerifyRow | None, aggregate: AggregateName | None) -> float | None:
    """A solution's reward as log-odds, whose sigmoid is the score; None if there is no score."""
    from genprm.search.voting import Aggregate, clipped, reward
    from genprm.types import logit

    if row is None:
        return None
    if aggregate == "solution" or (aggregate is None and row.solution is not None):
        if row.solution is None:
            raise UsageError("this judge does not score whole solutions: choose an --aggregate other than solution")
        score = row.solution.score
        if score is None:
            return None
        return clipped(logit(score) if row.solution.log_odds is None else row.solution.log_odds)
    return reward(row.scores, Aggregate(aggregate or "min"), [step.log_odds for step in row.steps])
