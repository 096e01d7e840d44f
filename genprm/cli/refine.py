"""`genprm refine`: tell a policy what is wrong with its solutions, and judge what it writes then."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from genprm.cli import options
from genprm.cli.boundary import FAILED, UsageError, friendly, run_async, stderr, stdout
from genprm.engines import PATIENCE_S

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.search.recipe import PolicyRecipe, PRMRecipe, Problems
    from genprm.search.refine import RefineSettings

FREE = (
    "concurrency",
    "problems.limit",
    "policy.base_url",
    "policy.patience_s",
    "prm.base_url",
    "prm.reference_url",
    "prm.sandbox",
)
"""Settings that do not change results: they may differ when a run goes on."""

EPILOG = """Examples:\n
  genprm refine --generate 100 --policy nano-policy --turns 3 --out runs/refined\n
  genprm refine problems.jsonl --policy Qwen/Qwen2.5-7B-Instruct --policy-url http://127.0.0.1:8000/v1
  --model GenPRM/GenPRM-7B --base-url http://127.0.0.1:8001/v1"""


def refine(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Problems: JSONL files or JSON arrays.", show_default=False),
    ] = None,
    policy: Annotated[str, typer.Option(help="The model that writes solutions.")] = "nano-policy",
    policy_url: Annotated[
        list[str] | None, typer.Option(help="A server of the policy. Repeat it for several.", show_default="none")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0.0, help="Seconds for which a server of the policy that fails is tried again.")
    ] = PATIENCE_S,
    turns: Annotated[int, typer.Option(min=0, help="Most times that the policy is told to think again.")] = 3,
    keep: Annotated[
        Literal["best", "last"], typer.Option(help="Which turn's solution counts: the best-scored one, or the last.")
    ] = "best",
    critique: Annotated[
        Literal["analysis", "code"],
        typer.Option(help="What the policy is told: the analysis alone, or also the code that was run and its output."),
    ] = "analysis",
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="Of the policy; 0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="Nucleus of the policy's sampling.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Candidates of the policy's sampling; 0 for all.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest solution.")] = 2048,
    system: Annotated[str | None, typer.Option(help="System prompt of the policy.", show_default="none")] = None,
    generate: Annotated[
        int | None,
        typer.Option(min=1, help="Take so many word problems made by rule, in place of files.", show_default="none"),
    ] = None,
    generate_seed: Annotated[int, typer.Option(help="Which of them.")] = 1,
    model: options.Model = "nano",
    prm: options.Family = None,
    with_code: options.WithCode = None,
    mode: options.Mode = None,
    engine: options.Engine = "auto",
    base_url: options.BaseUrl = None,
    votes: Annotated[int, typer.Option(min=1, help="Independent chains a solution; their scores are averaged.")] = 1,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="A step that scores below this is wrong.")] = 0.5,
    sandbox: options.Sandbox = "auto",
    seed: options.Seed = 0,
    concurrency: options.Concurrency = None,
    limit: options.Limit = None,
    out: options.Out = None,
    clean: options.Clean = False,
    config: options.Config = None,
) -> None:
    """Has a policy solve problems, and refine its solutions by what a PRM says is wrong with them.

    The folder of the run keeps every turn. The table says how many answers each turn mended, and how many it broke.
    The defaults of the sampling are those of the published experiment with Qwen2.5-7B-Instruct.
    """
    del context, config
    with friendly():
        from genprm.prms.genprm.protocol import Mode
        from genprm.search.recipe import PolicyRecipe, PRMRecipe, Problems
        from genprm.search.refine import KeepTurn, RefineSettings, Style

        if bool(files) == bool(generate):
            raise UsageError("name files with problems, or give --generate, one of the two")
        problems = Problems(files=list(files or ()), generate=generate, generate_seed=generate_seed, limit=limit)
        writer = PolicyRecipe(
            model=policy,
            engine="auto" if policy_url else engine,
            base_url=list(policy_url or ()),
            patience_s=patience,
            system=system,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_tokens=max_tokens,
        )
        judge = PRMRecipe(
            model=model,
            family=prm,
            engine="auto" if base_url else engine,
            base_url=list(base_url or ()),
            mode=Mode(options.resolve_mode(mode, with_code)),
            votes=votes,
            threshold=threshold,
            sandbox=sandbox,
        )
        settings = RefineSettings(turns, KeepTurn(keep), Style(critique))
        code = run_async(_refine(problems, writer, judge, settings, seed, concurrency, out, clean))
    raise typer.Exit(code)


async def _refine(
    problems: Problems,
    writer: PolicyRecipe,
    judge: PRMRecipe,
    settings: RefineSettings,
    seed: int,
    concurrency: int | None,
    out: Path | None,
    clean: bool,
) -> int:
    from genprm.benchmarks.searches import flattened
    from genprm.cli.search import policy_of, prm_of, problems_of
    from genprm.cli.session import session_of
    from genprm.data.problems import ProblemRow
    from genprm.grading.answers import AnswerChecker
    from genprm.grading.solutions import AnswerGrader
    from genprm.runs.driver import Finished, Progress, drive
    from genprm.runs.folder import digest, open_run
    from genprm.runs.verify import default_concurrency
    from genprm.search.refine import refine

    parts: dict[str, object] = {
        "problems": problems.model_dump(mode="json"),
        "policy": writer.model_dump(mode="json"),
        "prm": judge.model_dump(mode="json"),
        "turns": settings.turns,
        "keep": settings.keep.value,
        "critique": settings.style.value,
        "seed": seed,
        "concurrency": concurrency,
    }
    config = cast("dict[str, JsonValue]", flattened(parts))
    rows = problems_of(problems)
    out = out or Path("runs") / f"refine-{digest('refine', config, FREE)[:8]}"
    with open_run(out, command="refine", config=config, free=FREE, clean=clean) as run:
        progress = Progress(len(rows))
        with session_of(run, progress, partial(_finish, run, progress)) as session:
            async with (
                policy_of(writer, seed, run) as policy,
                prm_of(judge, seed, run) as prm,
                AnswerChecker() as checker,
            ):
                assert policy is not None
                assert prm is not None
                grader = AnswerGrader(checker)

                async def work(row: ProblemRow) -> Finished:
                    found = await refine(row, settings, policy=policy, prm=prm, grader=grader, seed=seed)
                    return Finished(found, found.generated)

                capacity = max(policy.capacity, prm.capacity)
                with session.working() as on_progress:
                    await drive(
                        rows,
                        run,
                        work,
                        concurrency=concurrency or default_concurrency(capacity, judge.votes),
                        progress=progress,
                        on_progress=on_progress,
                    )
    return FAILED if progress.failed else 0


def _finish(run: RunFolder, progress: Progress, session: SessionMetrics, interrupted: bool) -> None:
    """Writes metrics and page, and prints what the run came to."""
    from genprm.benchmarks.refinement import evaluate_refinement
    from genprm.cli import summary
    from genprm.cli.search_report import print_refinement
    from genprm.report.search_page import write_search_page
    from genprm.runs.folder import FAILURES, METRICS, REPORT, read_rows_of, write_atomically
    from genprm.runs.rows import FailureRow
    from genprm.search.rows import RefineRow

    rows = [row for row in run.rows(RefineRow) if row.key in progress.keys]
    rows.sort(key=lambda row: progress.keys[row.key])
    metrics = evaluate_refinement(rows, failed=progress.failed).model_copy(
        update={"session": session, "interrupted": interrupted}
    )
    write_atomically(run.path / METRICS, metrics.model_dump_json(indent=2))
    if interrupted:
        return
    failures = list(read_rows_of(run.path, FailureRow, FAILURES))
    page = run.path / REPORT
    write_search_page(page, info=run.info, metrics=metrics, rows=rows, failures=failures)
    print_refinement(stdout(), metrics)
    summary.print_failures(stderr(), failures, str(run.path / FAILURES))
    stdout().print(f"page: {page}", soft_wrap=True)
