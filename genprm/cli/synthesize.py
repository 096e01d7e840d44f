"""`genprm synthesize`: training rows with rationales from labelled solutions."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genprm.cli.boundary import FAILED, UsageError, notes, run_async, stdout
from genprm.cli.data import PushToHub, open_models, push, workers_of
from genprm.cli.options import Options
from genprm.config import RunConfig
from genprm.fields import free_fields
from genprm.rpe.config import TeacherConfig

if TYPE_CHECKING:
    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.rpe.chains import ChainTeacher
    from genprm.rpe.rationales import Teacher
    from genprm.rpe.rows import SynthesisRow
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.runs.rows import FailureRow
    from genprm.train.synthesized import Student

FREE = ("labels", *free_fields(TeacherConfig), *free_fields(RunConfig))
"""Settings that do not change results: they may differ when a run is resumed."""
CONCURRENCY = 16
"""Solutions in flight that keep a machine busy."""

EPILOG = """Examples:\n
  genprm synthesize runs/labels --out runs/train\n
  genprm synthesize runs/labels --teacher Qwen/QwQ-32B --base-url http://127.0.0.1:8000/v1\n
  genprm synthesize runs/labels --style thinkprm --teacher Qwen/QwQ-32B --base-url http://127.0.0.1:8000/v1\n
  genprm synthesize runs/labels --out runs/train --format ids --student Qwen/Qwen2.5-7B-Instruct"""


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A labelled solution to review."""

    key: str
    file: str
    line: int
    chain: int
    """Number of the chain about this solution; 0 for rationales."""
    id: str
    problem_id: str | None
    problem: str
    steps: tuple[str, ...]
    label: int | None


def synthesize(
    labels: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of `genprm label`.")],
    teacher: Annotated[TeacherConfig, Options(names={"model": "teacher"})],
    run: Annotated[RunConfig, Options(without=("keep",))],
    push_to_hub: PushToHub = None,
) -> None:
    """Has a teacher review the labelled solutions in RUN, runs its code, and keeps those where both agree.

    With `--style thinkprm` the teacher instead writes verification chains about whole solutions, without code.

    The run's folder holds one row per solution, with the reason if it was dropped, and `dataset/` with Parquet (column
    `messages` for TRL), card and plots.
    """  # fmt: skip
    raise typer.Exit(run_async(synthesize_into(labels, teacher, run, push_to_hub)))


_Review = Callable[[_Labelled], Awaitable["SynthesisRow"]]


async def synthesize_into(labels: Path, config: TeacherConfig, how: RunConfig, hub: str | None) -> int:
    """Reviews the solutions of a labelling run into a run's folder. Returns the exit code.

    Raises:
        UsageError: `labels` is another command's run.
        RunError: it is none.
    """
    from genprm.cli.session import session_of
    from genprm.data.inputs import take
    from genprm.rpe.dataset import check_installed
    from genprm.runs.driver import Finished, Progress, drive, is_finished, kept
    from genprm.runs.folder import digest, open_run, read_info

    info = read_info(labels)
    if info.command != "label":
        raise UsageError(f"{str(labels)!r} is a run of `genprm {info.command}`, not of `genprm label`")
    # Labels with another configuration are a different input, even at the same path.
    parts = {"labels": str(labels), **config.stored(), **how.stored(), "labels_digest": info.digest}
    parts["temperature"], parts["max_tokens"] = config.teaching
    stored = {"teacher" if name == "model" else name: value for name, value in parts.items() if name != "keep"}
    chains = config.chains if config.style == "thinkprm" else 0
    solutions = take(_solutions(labels), limit=how.limit, sample=how.sample, seed=how.seed)
    rows = [row for solution in solutions for row in _chains(solution, chains)]
    out = how.out or Path("runs") / f"synthesize-{digest('synthesize', stored, FREE)[:8]}"
    check_installed()
    student = None
    if config.student is not None:
        from genprm.train.synthesized import open_student

        # What does not load is reported before hours of work.
        student = await asyncio.to_thread(open_student, config.student, config.style, config.question)
    with open_run(out, command="synthesize", config=stored, free=FREE, clean=how.clean) as run:
        progress = Progress(len(rows))
        with session_of(
            run, progress, partial(_finish, run, progress, config, hub, student, how.as_json), how.track
        ) as session:
            if is_finished(rows, run):
                await kept(rows, run, progress)
                return FAILED if progress.failed else 0
            async with AsyncExitStack() as stack:
                name, workers, review = await _reviewer(config, how.seed, stack)
                run.note({"teacher": name, "labels": {"facts": info.facts, "config": info.config}})

                async def work(row: _Labelled) -> Finished:
                    made = await review(row)
                    return Finished(made, made.generated)

                with session.working() as on_progress:
                    concurrency = how.concurrency or CONCURRENCY * workers
                    await drive(rows, run, work, concurrency=concurrency, progress=progress, on_progress=on_progress)
    return FAILED if progress.failed else 0


def _solutions(labels: Path) -> Iterator[_Labelled]:
    """The labelled solutions of a run, sorted by problem, so that the order of finishing does not matter."""
    from genprm.rpe.rows import LabelRow
    from genprm.runs.folder import ROWS, read_rows_of

    for line, row in enumerate(sorted(read_rows_of(labels, LabelRow), key=lambda row: row.key), start=1):
        for number, solution in enumerate(row.solutions):
            # A repeated labelling run may have other solutions of the problem, or another label of the same one.
            content = json.dumps([row.problem, solution.steps, solution.first_error])
            yield _Labelled(
                key=f"{row.key}-{number}-{hashlib.sha256(content.encode()).hexdigest()[:8]}",
                file=str(labels / ROWS),
                line=line,
                chain=0,
                id=f"{row.id or row.key}-{number}",
                problem_id=row.id,
                problem=row.problem,
                steps=tuple(solution.steps),
                label=solution.first_error,
            )


def _chains(solution: _Labelled, chains: int) -> list[_Labelled]:
    """The rows about a solution: one with rationales, or one per chain."""
    if not chains:
        return [solution]
    return [replace(solution, key=f"{solution.key}-{chain}", chain=chain) for chain in range(chains)]


async def _reviewer(config: TeacherConfig, seed: int, stack: AsyncExitStack) -> tuple[str, int, _Review]:
    """Opens the teacher; returns its name, its number of workers, and a function that reviews a solution."""
    from genprm.rpe.chains import GeneratorChainTeacher, ModelChainTeacher
    from genprm.rpe.rationales import GENERATOR, GeneratorTeacher, ModelTeacher

    if config.model == GENERATOR and config.cluster is not None:
        raise UsageError(f"--cluster {config.cluster!r} is for a model as --teacher, and {GENERATOR!r} is not one")
    engines = [] if config.model == GENERATOR else await open_models(stack, config, config, seed=seed)
    workers = workers_of(*engines) if engines else 1
    temperature, max_tokens = config.teaching
    if config.style == "thinkprm":
        writer = GeneratorChainTeacher()
        if engines:
            writer = ModelChainTeacher(engines[0], temperature=temperature, max_tokens=max_tokens)
        return writer.name, workers, partial(_chain, writer, config, seed)
    box = await stack.enter_async_context(config.open_sandbox())
    teacher = GeneratorTeacher(box)
    if engines:
        teacher = ModelTeacher(
            engines[0], box, temperature=temperature, max_tokens=max_tokens, verdicts=config.verdicts
        )
    return teacher.name, workers, partial(_critiques, teacher, config, seed)


async def _critiques(teacher: Teacher, config: TeacherConfig, seed: int, row: _Labelled) -> SynthesisRow:
    """Reviews every step up to the first wrong one, with code."""
    from genprm.rpe.consensus import drop_reason, to_messages
    from genprm.rpe.rationales import Review
    from genprm.rpe.rows import SynthesisRow

    # Without a label, the teacher's review cannot be checked.
    review = Review((), None, "")
    if row.label is not None:
        review = await teacher.review(row.problem, row.steps, identity=row.problem_id, seed=seed)
    dropped = drop_reason(row.label, row.steps, review, meta_check=config.meta_check)
    messages = []
    if dropped is None and row.label is not None:
        question = config.question == "question"
        messages = to_messages(row.problem, row.steps, row.label, review, question=question)
    return SynthesisRow(
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


async def _chain(teacher: ChainTeacher, config: TeacherConfig, seed: int, row: _Labelled) -> SynthesisRow:
    """Writes one verification chain about the solution up to its first wrong step."""
    from genprm.rpe.chains import Filter, chain_drop, chain_messages, clean, first_error_of
    from genprm.rpe.rows import SynthesisRow

    steps = row.steps if row.label is None or row.label < 0 else row.steps[: row.label + 1]
    chain, found, messages = None, None, []
    if row.label is not None:
        number = seed * config.chains + row.chain
        chain = await teacher.write(row.problem, steps, identity=row.problem_id, seed=number)
        found = first_error_of(chain.text, len(steps))
    dropped = chain_drop(row.label, chain, found, Filter(config.filter))
    if dropped is None and chain is not None:
        messages = chain_messages(row.problem, steps, clean(chain.text), correct=found == -1)
    return SynthesisRow(
        key=row.key,
        id=row.id,
        problem=row.problem,
        steps=list(steps),
        label=row.label,
        first_error=found,
        kept=dropped is None,
        dropped=dropped,
        teacher=teacher.name,
        messages=messages,
        generated=chain.generated if chain is not None else 0,
    )


def _finish(
    run: RunFolder,
    progress: Progress,
    config: TeacherConfig,
    hub: str | None,
    student: Student | None,
    as_json: bool,
    session: SessionMetrics,
    interrupted: bool,
) -> None:
    """Writes the data set and metrics, and prints the result."""
    from genprm.cli.session import finish_run
    from genprm.cli.summary import print_counts
    from genprm.report.data_page import write_synthesis_page
    from genprm.rpe.dataset import balanced, distinct, filter_metrics, synthesis_metrics, write_training
    from genprm.rpe.rows import SynthesisRow
    from genprm.runs.folder import ROWS

    made = sorted(
        (row for row in run.rows(SynthesisRow) if row.key in progress.keys), key=lambda r: progress.keys[r.key]
    )
    found: dict[str, int | float] = {}
    if config.style == "thinkprm":
        found = filter_metrics(made)
        made = distinct(made)
        made = balanced(made) if config.balance else made
    counts = {**synthesis_metrics(made), **found}
    ids: Path | None = None
    if student is not None and any(row.kept for row in made) and not interrupted:
        from genprm.train.synthesized import write_ids

        write_training(run.path / "dataset", made, run.info, counts)
        ids = run.path / "dataset-ids"
        counts |= write_ids(ids, made, student, run.path / ROWS)

    def more() -> None:
        folder = ids or write_training(run.path / "dataset", made, run.info, counts)
        (notes() if as_json else stdout()).print(f"data set: {folder}", soft_wrap=True)
        push(folder, hub)

    def page(path: Path, failures: list[FailureRow]) -> int:
        return write_synthesis_page(path, info=run.info, rows=made, failures=failures)

    metrics = {**counts, "session": session.model_dump(), "interrupted": interrupted}
    table = partial(print_counts, stdout(), counts)
    finish_run(run, metrics, interrupted=interrupted, table=table, page=page, more=more, as_json=as_json)
