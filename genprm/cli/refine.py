"""`genprm refine`: tell a policy what is wrong with its solutions, and judge its new ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from genprm.cli.boundary import FAILED, UsageError, run_async, stdout
from genprm.cli.options import Options
from genprm.config import JudgeConfig, PolicyConfig, RunConfig
from genprm.fields import free_fields

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.search.recipe import Problems
    from genprm.search.refine import RefineSettings

FREE = (
    *free_fields(RunConfig),
    "problems.limit",
    "problems.sample",
    *free_fields(PolicyConfig, "policy."),
    *free_fields(JudgeConfig, "prm."),
)
"""Settings that do not change results: they may differ when a run is resumed."""

EPILOG = """Examples:\n
  genprm refine --generate 100 --policy nano-policy --turns 3 --out runs/refined\n
  genprm refine problems.jsonl --policy Qwen/Qwen2.5-7B-Instruct --policy-url http://127.0.0.1:8000/v1
  --model GenPRM/GenPRM-7B --base-url http://127.0.0.1:8001/v1"""


def refine(
    judge: JudgeConfig,
    policy: Annotated[PolicyConfig, Options("policy", defaults={"temperature": 0.7, "top_p": 0.8, "top_k": 20})],
    run: Annotated[RunConfig, Options(without=("keep",))],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Problems: JSONL files or JSON arrays.", show_default=False),
    ] = None,
    turns: Annotated[int, typer.Option(min=0, help="Most times that the policy rewrites a solution.")] = 3,
    keep: Annotated[
        Literal["best", "last"], typer.Option(help="Which turn's solution is the answer: best-scored or last.")
    ] = "best",
    critique: Annotated[
        Literal["analysis", "code"],
        typer.Option(help="What the policy gets: the analysis alone, or also the executed code and its output."),
    ] = "analysis",
    generate: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of files: this many generated word problems.", show_default="none"),
    ] = None,
    generate_seed: Annotated[int, typer.Option(help="Seed of the generated problems.")] = 1,
) -> None:
    """Has a policy solve problems and refine its solutions with a PRM's critiques.

    The run's folder keeps every turn. The table says how many answers each turn fixed and broke. The sampling defaults
    are those of the published experiment with Qwen2.5-7B-Instruct.
    """
    from genprm.search.recipe import Problems
    from genprm.search.refine import KeepTurn, RefineSettings, Style

    if bool(files) == bool(generate):
        raise UsageError("give either files with problems or --generate")
    source = {
        "files": list(files or ()),
        "generate": generate,
        "generate_seed": generate_seed,
        "limit": run.limit,
        "sample": run.sample,
    }
    settings = RefineSettings(turns, KeepTurn(keep), Style(critique))
    raise typer.Exit(run_async(_refine(Problems.of(source), policy, judge, settings, run)))


async def _refine(
    problems: Problems, writer: PolicyConfig, config: JudgeConfig, settings: RefineSettings, how: RunConfig
) -> int:
    from genprm.benchmarks.searches import flattened
    from genprm.cli.search import named, policy_of, prm_of, problems_of
    from genprm.cli.session import session_of
    from genprm.data.problems import ProblemRow
    from genprm.grading.answers import AnswerChecker
    from genprm.grading.solutions import AnswerGrader
    from genprm.runs.driver import Finished, Progress, drive, is_finished, kept
    from genprm.runs.folder import digest, open_run
    from genprm.runs.verify import default_concurrency
    from genprm.search.refine import refine

    parts: dict[str, object] = {
        "problems": problems.stored(),
        "policy": writer.stored(),
        "prm": config.stored(),
        "turns": settings.turns,
        "keep": settings.keep.value,
        "critique": settings.style.value,
        "seed": how.seed,
        "concurrency": how.concurrency,
    }
    stored = cast("dict[str, JsonValue]", {**flattened(parts), **named(problems)})
    rows = problems_of(problems, how.seed)
    out = how.out or Path("runs") / f"refine-{digest('refine', stored, FREE)[:8]}"
    with open_run(out, command="refine", config=stored, free=FREE, clean=how.clean) as run:
        progress = Progress(len(rows))
        with session_of(run, progress, partial(_finish, run, progress, how.as_json), how.track) as session:
            if is_finished(rows, run):
                await kept(rows, run, progress)
                return FAILED if progress.failed else 0
            async with (
                policy_of(writer, how.seed, run) as policy,
                prm_of(config, how.seed, run) as prm,
                AnswerChecker() as checker,
            ):
                assert policy is not None
                assert prm is not None
                grader = AnswerGrader(checker)

                async def work(row: ProblemRow) -> Finished:
                    found = await refine(row, settings, policy=policy, prm=prm, grader=grader, seed=how.seed)
                    return Finished(found, found.generated)

                capacity = max(policy.capacity, prm.capacity)
                with session.working() as on_progress:
                    await drive(
                        rows,
                        run,
                        work,
                        concurrency=how.concurrency or default_concurrency(capacity, config.most_votes),
                        progress=progress,
                        on_progress=on_progress,
                    )
    return FAILED if progress.failed else 0


def _finish(run: RunFolder, progress: Progress, as_json: bool, session: SessionMetrics, interrupted: bool) -> None:
    """Writes metrics and page, and prints the result."""
    from genprm.benchmarks.refinement import evaluate_refinement
    from genprm.cli.search_report import print_refinement
    from genprm.cli.session import finish_run
    from genprm.report.search_page import write_search_page
    from genprm.runs.rows import FailureRow
    from genprm.search.rows import RefineRow

    rows = [row for row in run.rows(RefineRow) if row.key in progress.keys]
    rows.sort(key=lambda row: progress.keys[row.key])
    metrics = evaluate_refinement(rows, failed=progress.failed).model_copy(
        update={"session": session, "interrupted": interrupted}
    )

    def page(path: Path, failures: list[FailureRow]) -> int:
        return write_search_page(path, info=run.info, metrics=metrics, rows=rows, failures=failures)

    table = partial(print_refinement, stdout(), metrics)
    finish_run(run, metrics, interrupted=interrupted, table=table, page=page, as_json=as_json)
