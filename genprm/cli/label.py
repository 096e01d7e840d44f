"""`genprm label`: step labels from Monte Carlo rollouts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from genprm.cli.boundary import FAILED, UsageError, notes, run_async, stdout
from genprm.cli.data import PushToHub, open_models, push, workers_of
from genprm.cli.options import Options
from genprm.config import ClusterConfig, EngineConfig, RunConfig
from genprm.fields import free_fields
from genprm.rpe.config import LabelConfig

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.data.inputs import BadRow
    from genprm.data.problems import ProblemRow
    from genprm.rpe.rollouts import Settings
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.runs.rows import FailureRow

FREE = tuple(name for model in (LabelConfig, EngineConfig, ClusterConfig, RunConfig) for name in free_fields(model))
"""Settings that do not change results: they may differ when a run is resumed."""
CONCURRENCY = 8
"""Problems in flight that keep a machine busy: each has dozens of concurrent rollouts."""
_NAMED = ("model", "base_url", "revision", "tokenizer")
"""Fields in which policy and completer differ."""

EPILOG = """Examples:\n
  genprm label --generate 50 --out runs/labels\n
  genprm label math-train.jsonl --policy Qwen/Qwen2.5-7B-Instruct --completer Qwen/Qwen2.5-Math-7B-Instruct
  --policy-url http://127.0.0.1:8000/v1 --completer-url http://127.0.0.1:8001/v1 --most 2048"""


def label(
    labelling: LabelConfig,
    engine: Annotated[EngineConfig, Options(without=_NAMED)],
    cluster: ClusterConfig,
    run: Annotated[RunConfig, Options(without=("keep",))],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="JSONL files of problems with `problem` and `answer`.", show_default=False),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of files: this many generated word problems.", show_default="none"),
    ] = None,
    generate_seed: Annotated[int, typer.Option(min=0, help="Seed of the generated problems.")] = 0,
    push_to_hub: PushToHub = None,
) -> None:
    """Samples solutions, rolls out from their prefixes, and labels every step by relative progress.

    The run's folder holds one row per problem, and `dataset/` with Parquet, card and plots. The same command resumes a
    stopped run; finished rollouts are never sampled again.
    """
    if bool(files) == bool(generate):
        raise UsageError("give files with problems, or --generate with a number")
    from genprm.runs.sources import sources

    named = sources(files or ())
    source: dict[str, JsonValue] = {"files": named, "generate": generate, "generate_seed": generate_seed}
    raise typer.Exit(run_async(label_into(source, files or [], labelling, engine, cluster, run, push_to_hub)))


async def label_into(
    source: dict[str, JsonValue],
    files: list[str],
    labelling: LabelConfig,
    shared: EngineConfig,
    cluster: ClusterConfig,
    how: RunConfig,
    hub: str | None,
    *,
    without: Collection[str] = (),
) -> int:
    """Labels problems into a run's folder. Returns the exit code.

    Args:
        source: as `run.json` has it: `files` and perhaps the names of their columns `problem` and `answer`, or
            `generate` and `generate_seed`.
        files: the files themselves.
        labelling: how.
        shared: the engine of both models.
        cluster: where they run.
        how: the folder, and how much of the input.
        hub: repository to push the data set to.
        without: texts of problems to leave out.
    """
    from genprm.cli.session import session_of
    from genprm.grading.answers import AnswerChecker
    from genprm.prms.load import model_path
    from genprm.rpe.dataset import check_installed
    from genprm.rpe.journal import FILE, Journal
    from genprm.rpe.rollouts import Labeller, RolloutError
    from genprm.runs.driver import Finished, Progress, drive, is_finished, kept
    from genprm.runs.folder import digest, open_run
    from genprm.runs.provenance import weights_of

    settings = _settings(labelling, how.seed)
    common = {name: value for name, value in shared.stored().items() if name not in _NAMED}
    parts = {
        **source,
        **labelling.stored(),
        "threshold": settings.threshold,
        **common,
        **cluster.stored(),
        **how.stored(),
    }
    stored = {name: value for name, value in parts.items() if name != "keep"}
    rows = list(problems_of(source, files, how, without))
    out = how.out or Path("runs") / f"label-{digest('label', stored, FREE)[:8]}"
    check_installed()
    with open_run(out, command="label", config=stored, free=FREE, clean=how.clean) as run:
        if how.clean:
            (out / FILE).unlink(missing_ok=True)
        journal = Journal(out, run.done)
        progress = Progress(len(rows))
        with session_of(run, progress, partial(_finish, run, progress, hub, how.as_json), how.track) as session:
            if is_finished(rows, run):
                journal.close()
                await kept(rows, run, progress)
                return FAILED if progress.failed else 0
            async with AsyncExitStack() as stack:
                stack.callback(journal.close)
                models = [(labelling.policy, labelling.policy_url)]
                if labelling.completer is not None:
                    models.append((labelling.completer, labelling.completer_url))
                configs = [shared.model_copy(update={"model": name, "base_url": urls}) for name, urls in models]
                policy, *others = engines = await open_models(stack, cluster, *configs, seed=how.seed)
                facts: dict[str, JsonValue] = {
                    "weights": None if labelling.policy_url else weights_of(model_path(labelling.policy)),
                    "engine": policy.kind,
                }
                run.note(facts, fixed=("weights", "engine"))
                checker = await stack.enter_async_context(AnswerChecker())
                labeller = Labeller(policy, others[0] if others else None, checker, journal, settings)

                async def work(row: ProblemRow) -> Finished:
                    if row.answer is None:
                        raise RolloutError("the problem has no `answer` to compare with")
                    made = await labeller.label(row.key, row.problem, row.answer, row.id)
                    journal.forget(row.key)
                    return Finished(made, made.generated)

                with session.working() as on_progress:
                    concurrency = how.concurrency or CONCURRENCY * workers_of(*engines)
                    await drive(rows, run, work, concurrency=concurrency, progress=progress, on_progress=on_progress)
    return FAILED if progress.failed else 0


def _settings(labelling: LabelConfig, seed: int) -> Settings:
    from genprm.rpe.labels import DEFAULT_THRESHOLDS, Method
    from genprm.rpe.rollouts import Settings

    method = Method(labelling.method)
    try:
        return Settings(
            solutions=labelling.solutions,
            first=labelling.first,
            most=labelling.most,
            temperature=labelling.temperature,
            max_tokens=labelling.max_tokens,
            budget=cast("Literal['adaptive', 'dynamic'] | int", labelling.budget),
            confidence=labelling.confidence,
            search=labelling.first_error,
            method=method,
            threshold=DEFAULT_THRESHOLDS[method] if labelling.threshold is None else labelling.threshold,
            seed=seed,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def problems_of(
    source: dict[str, JsonValue], files: list[str], how: RunConfig, without: Collection[str] = ()
) -> Iterator[ProblemRow | BadRow]:
    """The problems that a run labels: see `label_into`."""
    from genprm.data.inputs import BadRow, take
    from genprm.data.problems import generated, read_problems

    number, seed = source["generate"], source["generate_seed"]
    if files:
        columns = {name: str(source[name]) for name in ("problem", "answer") if name in source}
        rows = read_problems(files, **columns)
    else:
        rows = generated(int(str(number)), int(str(seed)))
    taken = take(rows, limit=how.limit, sample=how.sample, seed=how.seed)
    return (row for row in taken if isinstance(row, BadRow) or row.problem not in without)


def _finish(
    run: RunFolder,
    progress: Progress,
    hub: str | None,
    as_json: bool,
    session: SessionMetrics,
    interrupted: bool,
) -> None:
    """Writes the data set and the metrics, and prints the result."""
    from genprm.cli.session import finish_run
    from genprm.cli.summary import print_counts
    from genprm.report.data_page import write_label_page
    from genprm.rpe.dataset import label_metrics, write_labels
    from genprm.rpe.rows import LabelRow

    rows = sorted((row for row in run.rows(LabelRow) if row.key in progress.keys), key=lambda r: progress.keys[r.key])
    counts = label_metrics(rows)

    def more() -> None:
        folder = write_labels(run.path / "dataset", rows, run.info)
        (notes() if as_json else stdout()).print(f"data set: {folder}", soft_wrap=True)
        push(folder, hub)

    def page(path: Path, failures: list[FailureRow]) -> int:
        return write_label_page(path, info=run.info, rows=rows, failures=failures)

    metrics = {**counts, "session": session.model_dump(), "interrupted": interrupted}
    table = partial(print_counts, stdout(), counts)
    finish_run(run, metrics, interrupted=interrupted, table=table, page=page, more=more, as_json=as_json)
