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
from genprm.cli.boundary import FAILED, UsageError, friendly, run_async, stderr, stdout

if TYPE_CHECKING:
    from pydantic import JsonValue

    from rpe.rationales import Teacher

FREE = ("limit", "concurrency", "base_url", "sandbox")
"""Options that do not change results: they may differ when a run goes on."""

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
    concurrency: Annotated[int, typer.Option(min=1, help="Solutions in flight at once.")] = 16,
    limit: options.Limit = None,
    out: options.Out = None,
    clean: options.Clean = False,
    push_to_hub: Annotated[
        str | None, typer.Option(help="A dataset repository to push the result to.", show_default="none")
    ] = None,
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
            "engine": engine,
            "dtype": dtype,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "verdicts": verdicts,
            "question": question,
            "sandbox": sandbox,
            "seed": seed,
            "concurrency": concurrency,
            "limit": limit,
        }
        code = run_async(_synthesize(given, labels, out, clean, push_to_hub))
    raise typer.Exit(code)


async def _synthesize(
    given: dict[str, JsonValue], labels: Path, out: Path | None, clean: bool, push_to_hub: str | None
) -> int:
    import asyncio

    from genprm.batch import BatchError, Finished, Progress, drive
    from genprm.cli.progress import shown
    from genprm.runs import digest, open_run, read_info
    from rpe.consensus import drop_reason, to_messages
    from rpe.dataset import check_installed
    from rpe.rationales import Review
    from rpe.rows import SynthesisRow

    info = read_info(labels)
    if info.command != "label":
        raise UsageError(f"{str(labels)!r} is a run of `genprm {info.command}`, not of `genprm label`")
    # Labels of another configuration are another input, wherever they lie.
    config: dict[str, JsonValue] = {**given, "labels_digest": info.digest}
    limit = given["limit"]
    rows = list(islice(_solutions(labels), None if limit is None else int(str(limit))))
    out = out or Path("runs") / f"synthesize-{digest('synthesize', config, (*FREE, 'labels'))[:8]}"
    check_installed()
    with open_run(out, command="synthesize", config=config, free=(*FREE, "labels"), clean=clean) as run:
        progress = Progress(len(rows))
        started = time.perf_counter()
        stopped: BaseException | None = None
        try:
            async with AsyncExitStack() as stack:
                teacher = await _teacher(given, stack)
                run.note({"teacher": teacher.name, "labels": {"facts": info.facts, "config": info.config}})

                async def work(row: _Labelled) -> Finished:
                    # Nobody knows where its first wrong step is: what the teacher says could not be checked.
                    review = Review((), None, "")
                    if row.label is not None:
                        review = await teacher.review(
                            row.problem, row.steps, identity=row.problem_id, seed=int(str(given["seed"]))
                        )
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
                    await drive(
                        rows,
                        run,
                        work,
                        concurrency=int(str(given["concurrency"])),
                        progress=progress,
                        on_progress=on_progress,
                    )
        except (asyncio.CancelledError, BatchError) as error:
            stopped = error
        if stopped is not None:
            stderr().print(f"Stopped. {len(run.done):,} rows are kept; the same command goes on from there.")
            raise stopped

        import json

        from genprm.cli import summary
        from genprm.rows import FailureRow
        from genprm.runs import FAILURES, METRICS, read_rows_of, write_atomically
        from rpe.dataset import push, synthesis_metrics, write_training

        made = sorted(
            (row for row in run.rows(SynthesisRow) if row.key in progress.keys), key=lambda r: progress.keys[r.key]
        )
        metrics = synthesis_metrics(made)
        seconds = round(time.perf_counter() - started, 1)
        write_atomically(run.path / METRICS, json.dumps(metrics | {"seconds": seconds}, indent=2))
        folder = write_training(run.path / "dataset", made, run.info, metrics)
        for name, value in metrics.items():
            stdout().print(f"{name.replace('_', ' '):28} {value}")
        summary.print_failures(stderr(), read_rows_of(run.path, FailureRow, FAILURES), str(run.path / FAILURES))
        stdout().print(f"data set: {folder}", soft_wrap=True)
        if push_to_hub is not None:
            push(folder, push_to_hub)
    return FAILED if progress.failed else 0


def _solutions(labels: Path) -> Iterator[_Labelled]:
    """The labelled solutions of a run, by problem: the order in which rows were finished does not matter."""
    from genprm.runs import ROWS, read_rows_of
    from rpe.rows import LabelRow

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


async def _teacher(given: dict[str, JsonValue], stack: AsyncExitStack) -> Teacher:
    from genprm.engines import BUILT_IN, load_engine
    from rpe.rationales import GENERATOR, GeneratorTeacher, ModelTeacher
    from sandbox import open_sandbox

    box = await stack.enter_async_context(open_sandbox(given["sandbox"]))  # pyright: ignore[reportArgumentType]
    name = str(given["teacher"])
    if name == GENERATOR:
        return GeneratorTeacher(box)
    urls = [str(url) for url in given["base_url"]] if isinstance(given["base_url"], list) else []
    engine = await load_engine(
        given["engine"],  # pyright: ignore[reportArgumentType]
        name,
        base_urls=urls,
        tokenizer=name if urls and name not in BUILT_IN else None,
        seed=int(str(given["seed"])),
        dtype=str(given["dtype"]),
    )
    stack.push_async_callback(engine.close)
    return ModelTeacher(
        engine,
        box,
        temperature=float(str(given["temperature"])),
        max_tokens=int(str(given["max_tokens"])),
        verdicts=int(str(given["verdicts"])),
    )
