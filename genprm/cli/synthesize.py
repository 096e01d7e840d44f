"""`genprm synthesize`: training rows with critiques from labelled solutions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
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

    from genprm.rpe.rationales import Teacher
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder

FREE = (*DATA_FREE, "base_url", "sandbox")
"""Options that do not change results: they may differ when a run goes on."""
CONCURRENCY = 16
"""Solutions in flight that keep a machine busy."""

EPILOG = """Examples:\n
  genprm synthesize runs/labels --out runs/train\n
  genprm synthesize runs/labels --teacher Qwen/QwQ-32B --base-url http://127.0.0.1:8000/v1"""


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A labelled solution to be reviewed."""

    key: str
    file: str
    line: int
    id: str
    problem_id: str | None
    problem: str
    steps: tuple[str, ...]
    label: int | None


def synthesize(
    context: typer.Context,
    labels: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of `genprm label`.")],
    teacher: Annotated[
        str, typer.Option(help="A chat model, or `generator` for the rationales of word problems made by rule.")
    ] = "generator",
    base_url: options.BaseUrl = None,
    engine: options.Engine = "auto",
    dtype: options.Dtype = "auto",
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the teacher.")] = 0.6,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a review.")] = 16_384,
    verdicts: Annotated[int, typer.Option(min=1, help="How often the conclusion is sampled.")] = 4,
    question: Annotated[
        Literal["question", "bare"],
        typer.Option(help="First user turn: with `Question: ` as in the released data, or bare as `nano` has it."),
    ] = "question",
    sandbox: options.Sandbox = "auto",
    seed: options.Seed = 0,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Solutions in flight at once.", show_default="16, or 16 a worker")
    ] = None,
    limit: options.Limit = None,
    cluster: options.Cluster = None,
    workers: options.Workers = None,
    out: options.Out = None,
    clean: options.Clean = False,
    push_to_hub: PushToHub = None,
    config: options.Config = None,
) -> None:
    """Has a teacher review the labelled solutions in RUN, runs its code, and keeps those where both agree.

    The folder of the run holds a row a solution with the reason why it was dropped, and `dataset/` with Parquet (column
    `messages` for TRL), card and plots.
    """  # fmt: skip
    del context, config
    with friendly():
        given: dict[str, JsonValue] = {
            "labels": str(labels),
            "teacher": teacher,
            "base_url": list(base_url or []),
            "temperature": temperature,
            "max_tokens": max_tokens,
            "verdicts": verdicts,
            "question": question,
            "sandbox": sandbox,
            "concurrency": concurrency,
            "limit": limit,
        }
        models = Models(engine, dtype, cluster, workers, seed)
        code = run_async(_synthesize(models, given, labels, out, clean, push_to_hub))
    raise typer.Exit(code)


async def _synthesize(
    models: Models, given: dict[str, JsonValue], labels: Path, out: Path | None, clean: bool, hub: str | None
) -> int:
    import asyncio

    from genprm.cli.progress import shown
    from genprm.rpe.consensus import drop_reason, to_messages
    from genprm.rpe.dataset import check_installed
    from genprm.rpe.rationales import Review
    from genprm.rpe.rows import SynthesisRow
    from genprm.runs.driver import BatchError, Finished, Progress, drive
    from genprm.runs.folder import digest, open_run, read_info

    info = read_info(labels)
    if info.command != "label":
        raise UsageError(f"{str(labels)!r} is a run of `genprm {info.command}`, not of `genprm label`")
    # Labels of another configuration are another input, wherever they lie.
    config: dict[str, JsonValue] = {**given, **models.config(), "labels_digest": info.digest}
    limit = given["limit"]
    rows = list(islice(_solutions(labels), None if limit is None else int(str(limit))))
    out = out or Path("runs") / f"synthesize-{digest('synthesize', config, (*FREE, 'labels'))[:8]}"
    check_installed()
    with open_run(out, command="synthesize", config=config, free=(*FREE, "labels"), clean=clean) as run:
        progress = Progress(len(rows))
        started = time.perf_counter()
        try:
            async with AsyncExitStack() as stack:
                teacher, workers = await _teacher(models, given, stack)
                run.note({"teacher": teacher.name, "labels": {"facts": info.facts, "config": info.config}})

                async def work(row: _Labelled) -> Finished:
                    # Nobody knows where its first wrong step is: what the teacher says could not be checked.
                    review = Review((), None, "")
                    if row.label is not None:
                        review = await teacher.review(row.problem, row.steps, identity=row.problem_id, seed=models.seed)
                    dropped = drop_reason(row.label, len(row.steps), review)
                    messages = []
                    if dropped is None and row.label is not None:
                        bare = given["question"] == "bare"
                        messages = to_messages(row.problem, row.steps, row.label, review, question=not bare)
                    made = SynthesisRow(
                        key=row.key,
                        id=row.id,
                        problem=row.problem,
                        steps=list(row.steps),
                        label=row.label,
                        first_error=review.first_error,
                        kept=dropped is None,
                        dropped=dropped,
                        teacher=teacher.name,
                        messages=messages,
                        snippets=dict(review.snippets),
                        generated=review.generated,
                    )
                    return Finished(made, review.generated)

                with shown(stderr()) as on_progress:
                    concurrency = int(str(given["concurrency"] or CONCURRENCY * workers))
                    await drive(rows, run, work, concurrency=concurrency, progress=progress, on_progress=on_progress)
        except (asyncio.CancelledError, BatchError):
            stderr().print(f"Stopped. {len(run.done):,} rows are kept; the same command goes on from there.")
            raise
        _finish(run, progress, time.perf_counter() - started, hub)
    return FAILED if progress.failed else 0


def _solutions(labels: Path) -> Iterator[_Labelled]:
    """The labelled solutions of a run, by problem: the order in which rows were finished does not matter."""
    from genprm.rpe.rows import LabelRow
    from genprm.runs.folder import ROWS, read_rows_of

    for line, row in enumerate(sorted(read_rows_of(labels, LabelRow), key=lambda row: row.key), start=1):
        for number, solution in enumerate(row.solutions):
            yield _Labelled(
                key=f"{row.key}-{number}",
                file=str(labels / ROWS),
                line=line,
                id=f"{row.id or row.key}-{number}",
                problem_id=row.id,
                problem=row.problem,
                steps=tuple(solution.steps),
                label=solution.first_error,
            )


async def _teacher(models: Models, given: dict[str, JsonValue], stack: AsyncExitStack) -> tuple[Teacher, int]:
    """The teacher, and the number of workers that it has."""
    from genprm.rpe.rationales import GENERATOR, GeneratorTeacher, ModelTeacher
    from genprm.sandbox import open_sandbox

    name = str(given["teacher"])
    if name == GENERATOR and models.cluster is not None:
        raise UsageError(f"--cluster {models.cluster!r} is for a model as --teacher: {GENERATOR!r} is none")
    box = await stack.enter_async_context(open_sandbox(given["sandbox"]))  # pyright: ignore[reportArgumentType]
    if name == GENERATOR:
        return GeneratorTeacher(box), 1
    (engine,) = await models.open(stack, (name, texts(given["base_url"])))
    teacher = ModelTeacher(
        engine,
        box,
        temperature=float(str(given["temperature"])),
        max_tokens=int(str(given["max_tokens"])),
        verdicts=int(str(given["verdicts"])),
    )
    return teacher, workers_of(engine)


def _finish(run: RunFolder, progress: Progress, seconds: float, hub: str | None) -> None:
    """Writes the data set and the metrics, and prints what the run came to."""
    from genprm.rpe.dataset import synthesis_metrics, write_training
    from genprm.rpe.rows import SynthesisRow

    made = sorted(
        (row for row in run.rows(SynthesisRow) if row.key in progress.keys), key=lambda r: progress.keys[r.key]
    )
    metrics = synthesis_metrics(made)
    finish(run, metrics, seconds, write_training(run.path / "dataset", made, run.info, metrics), hub)
