"""`genprm label`: step labels from Monte Carlo rollouts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genprm.cli import options
from genprm.cli.boundary import FAILED, UsageError, friendly, run_async, stderr
from genprm.cli.data import FREE as DATA_FREE
from genprm.cli.data import Models, PushToHub, finish, texts, workers_of

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.data.inputs import BadRow
    from genprm.data.problems import ProblemRow
    from genprm.rpe.rollouts import Settings
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder

FREE = (*DATA_FREE, "policy_url", "completer_url")
"""Options that do not change results: they may differ when a run goes on."""
CONCURRENCY = 8
"""Problems in flight that keep a machine busy: each has some dozens of rollouts at once."""

EPILOG = """Examples:\n
  genprm label --generate 50 --out runs/labels\n
  genprm label math-train.jsonl --policy Qwen/Qwen2.5-7B-Instruct --completer Qwen/Qwen2.5-Math-7B-Instruct
  --policy-url http://127.0.0.1:8000/v1 --completer-url http://127.0.0.1:8001/v1 --most 2048"""


def label(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE...]", help="JSONL files of problems with `problem` and `answer`.", show_default=False
        ),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of files: so many word problems made by rule.", show_default="none"),
    ] = None,
    generate_seed: Annotated[int, typer.Option(min=0, help="Of the problems made by rule.")] = 0,
    policy: Annotated[str, typer.Option(help="The model that writes solutions: a name or a folder.")] = "nano-policy",
    policy_url: Annotated[
        list[str] | None, typer.Option(help="A server of the policy. Repeat it for several.", show_default="none")
    ] = None,
    completer: Annotated[
        str | None, typer.Option(help="The model that continues them.", show_default="the policy")
    ] = None,
    completer_url: Annotated[
        list[str] | None, typer.Option(help="A server of the completer. Repeat it for several.", show_default="none")
    ] = None,
    engine: options.Engine = "auto",
    dtype: options.Dtype = "auto",
    solutions: Annotated[int, typer.Option(min=1, help="Solutions to label a problem, half of them right.")] = 4,
    first: Annotated[int, typer.Option(min=1, help="Solutions to sample at first.")] = 32,
    most: Annotated[int, typer.Option(min=1, help="Solutions to sample at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of solutions and of continuations.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a solution, and of a continuation.")] = 2048,
    budget: Annotated[
        str,
        typer.Option(help="Rollouts: `adaptive` stops when a label is decided, `dynamic` is the paper's, or a number."),
    ] = "adaptive",
    confidence: Annotated[float, typer.Option(help="From which an adaptive label is decided.")] = 0.95,
    first_error: Annotated[
        bool,
        typer.Option("--first-error/--every-step", help="Whether an adaptive budget looks for the first wrong step."),
    ] = True,
    method: Annotated[
        Literal["ratio", "difference", "hard"], typer.Option(help="How the progress of a step is measured.")
    ] = "ratio",
    threshold: Annotated[
        float | None, typer.Option(help="Progress of a right step.", show_default="0.8, -0.3 or 0 by method")
    ] = None,
    seed: options.Seed = 0,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Problems in flight at once.", show_default="8, or 8 a worker")
    ] = None,
    limit: options.Limit = None,
    cluster: options.Cluster = None,
    workers: options.Workers = None,
    out: options.Out = None,
    clean: options.Clean = False,
    push_to_hub: PushToHub = None,
    config: options.Config = None,
) -> None:
    """Samples solutions, rolls out from their prefixes, and labels every step by relative progress.

    The folder of the run holds a row a problem, and `dataset/` with Parquet, card and plots. What is finished is never
    sampled again: the same command goes on where it stopped.
    """
    del context, config
    with friendly():
        from genprm.rpe.labels import DEFAULT_THRESHOLDS, Method
        from genprm.rpe.rollouts import Settings

        if bool(files) == bool(generate):
            raise UsageError("give files with problems, or --generate with a number of them")
        if budget not in ("adaptive", "dynamic") and not budget.isdecimal():
            raise UsageError(f"--budget must be adaptive, dynamic or a number, not {budget!r}")
        way = Method(method)
        try:
            settings = Settings(
                solutions=solutions,
                first=first,
                most=most,
                temperature=temperature,
                max_tokens=max_tokens,
                budget="adaptive" if budget == "adaptive" else "dynamic" if budget == "dynamic" else int(budget),
                confidence=confidence,
                search=first_error,
                method=way,
                threshold=DEFAULT_THRESHOLDS[way] if threshold is None else threshold,
                seed=seed,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
        made: dict[str, JsonValue] = {
            "files": list(files or []),
            "generate": generate,
            "generate_seed": generate_seed,
            "policy": policy,
            "policy_url": list(policy_url or []),
            "completer": completer,
            "completer_url": list(completer_url or []),
            "limit": limit,
            "concurrency": concurrency,
        }
        models = Models(engine, dtype, cluster, workers, seed)
        code = run_async(_label(settings, models, made, out, clean, push_to_hub))
    raise typer.Exit(code)


async def _label(
    settings: Settings, models: Models, given: dict[str, JsonValue], out: Path | None, clean: bool, hub: str | None
) -> int:
    import asyncio
    from dataclasses import asdict

    from genprm.cli.progress import shown
    from genprm.engines import BUILT_IN
    from genprm.grading.answers import AnswerChecker
    from genprm.rpe.dataset import check_installed
    from genprm.rpe.journal import FILE, Journal
    from genprm.rpe.rollouts import Labeller, RolloutError
    from genprm.runs.driver import BatchError, Finished, Progress, drive
    from genprm.runs.folder import digest, open_run
    from genprm.runs.provenance import weights_of

    config: dict[str, JsonValue] = {**given, **models.config(), **asdict(settings)}
    rows = list(_problems(given))
    out = out or Path("runs") / f"label-{digest('label', config, FREE)[:8]}"
    check_installed()
    with open_run(out, command="label", config=config, free=FREE, clean=clean) as run:
        if clean:
            (out / FILE).unlink(missing_ok=True)
        journal = Journal(out, run.done)
        progress = Progress(len(rows))
        started = time.perf_counter()
        try:
            async with AsyncExitStack() as stack:
                stack.callback(journal.close)
                name, other = str(given["policy"]), given["completer"]
                wanted = [(name, texts(given["policy_url"]))]
                if other is not None:
                    wanted.append((str(other), texts(given["completer_url"])))
                engines = await models.open(stack, *wanted)
                policy, completer = engines[0], engines[1] if other is not None else None
                facts: dict[str, JsonValue] = {
                    "weights": None if given["policy_url"] else weights_of(BUILT_IN.get(name, name)),
                    "engine": policy.kind,
                }
                run.note(facts, fixed=("weights", "engine"))
                labeller = Labeller(
                    policy, completer, await stack.enter_async_context(AnswerChecker()), journal, settings
                )

                async def work(row: ProblemRow) -> Finished:
                    if row.answer is None:
                        raise RolloutError("the problem has no `answer` to compare with")
                    made = await labeller.label(row.key, row.problem, row.answer, row.id)
                    journal.forget(row.key)
                    return Finished(made, made.generated)

                with shown(stderr()) as on_progress:
                    concurrency = int(str(given["concurrency"] or CONCURRENCY * workers_of(*engines)))
                    await drive(rows, run, work, concurrency=concurrency, progress=progress, on_progress=on_progress)
        except (asyncio.CancelledError, BatchError):
            stderr().print(f"Stopped. {len(run.done):,} problems are kept, and all rollouts of those in work.")
            raise
        _finish(run, progress, time.perf_counter() - started, hub)
    return FAILED if progress.failed else 0


def _problems(given: dict[str, JsonValue]) -> Iterator[ProblemRow | BadRow]:
    from genprm.data.problems import generated, read_problems

    limit = given["limit"]
    number = given["generate"]
    if number is None:
        rows = read_problems(texts(given["files"]))
    else:
        rows = generated(int(str(number)), int(str(given["generate_seed"])))
    return islice(rows, None if limit is None else int(str(limit)))


def _finish(run: RunFolder, progress: Progress, seconds: float, hub: str | None) -> None:
    """Writes the data set and the metrics, and prints what the run came to."""
    from genprm.rpe.dataset import label_metrics, write_labels
    from genprm.rpe.rows import LabelRow

    rows = sorted((row for row in run.rows(LabelRow) if row.key in progress.keys), key=lambda r: progress.keys[r.key])
    folder = write_labels(run.path / "dataset", rows, run.info)
    finish(run, label_metrics(rows), seconds, folder, hub)
