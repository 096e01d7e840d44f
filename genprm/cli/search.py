"""`genprm search`: best-of-n, beam search and DVTS, as a recipe says."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from genprm.cli import options
from genprm.cli.boundary import FAILED, UsageError, friendly, run_async, stderr, stdout

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.benchmarks.searches import SearchMetrics
    from genprm.cli.judging import Judging
    from genprm.data.inputs import BadRow
    from genprm.data.problems import ProblemRow
    from genprm.prms.base import PRM
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.search.policy import Policy
    from genprm.search.recipe import PolicyRecipe, PRMRecipe, Problems, Recipe
    from genprm.search.rows import SearchRow

RECIPE = "recipe.yaml"
"""The resolved recipe, in the run's folder: searching by it does the same again."""
FREE = (
    "description",
    "concurrency",
    "problems.limit",
    "policy.base_url",
    "policy.patience_s",
    "prm.base_url",
    "prm.reference_url",
    "prm.sandbox",
)
"""Keys that do not change results: they may differ when a run goes on."""

EPILOG = """Examples:\n
  genprm search recipes/built-in/best-of-n.yaml --out runs/bon\n
  genprm search recipes/math500/genprm-best-of-n.yaml --policy-url http://127.0.0.1:8000/v1 --base-url http://127.0.0.1:8001/v1\n
  genprm search recipes/built-in/beam.yaml --set n=16 --set policy.temperature=0.6 --limit 50"""


def search(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Another value for a key, such as `n=16` or `policy.temperature=0.6`. Repeat it.",
            show_default="none",
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="The model that writes solutions.", show_default="the recipe's")
    ] = None,
    policy_url: Annotated[
        list[str] | None,
        typer.Option(help="A server of the policy. Repeat it for several.", show_default="the recipe's"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model that judges.", show_default="the recipe's")] = None,
    base_url: Annotated[
        list[str] | None, typer.Option(help="A server of the PRM. Repeat it for several.", show_default="the recipe's")
    ] = None,
    with_code: Annotated[
        bool | None,
        typer.Option("--with-code/--no-code", help="Let the PRM run code.", show_default="the recipe's"),
    ] = None,
    votes: Annotated[
        int | None, typer.Option(min=1, help="Independent chains a solution.", show_default="the recipe's")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="Of the policy.", show_default="the recipe's")
    ] = None,
    sandbox: Annotated[
        options.SandboxName | None, typer.Option(help="What runs the code.", show_default="the recipe's")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take at most so many problems.", show_default="the recipe's")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes it repeatable.", show_default="the recipe's")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Problems in flight at once.", show_default="what keeps the engines full")
    ] = None,
    out: options.Out = None,
    clean: options.Clean = False,
) -> None:
    """Looks for solutions of problems with a policy and a PRM, and measures how often they are right.

    The folder of the run holds a row a problem with every solution found, the resolved recipe, accuracies by n and by
    tokens, plots, and a page. The same command goes on where it stopped.
    """  # fmt: skip
    with friendly():
        import json

        given = {
            "policy.model": policy,
            "policy.base_url": policy_url,
            "prm.model": model,
            "prm.base_url": base_url,
            "prm.mode": None if with_code is None else options.resolve_mode(None, with_code),
            "prm.votes": votes,
            "policy.temperature": temperature,
            "prm.sandbox": sandbox,
            "problems.limit": limit,
            "seed": seed,
            "concurrency": concurrency,
        }
        flags = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
        code = run_async(_search(recipe, [*(set_ or []), *flags], out, clean))
    raise typer.Exit(code)


async def _search(path: Path, overrides: list[str], out: Path | None, clean: bool) -> int:
    import yaml

    from genprm.benchmarks.searches import flattened
    from genprm.cli.session import session_of
    from genprm.grading.answers import AnswerChecker
    from genprm.grading.solutions import AnswerGrader
    from genprm.runs.driver import Finished, Progress, drive
    from genprm.runs.folder import digest, open_run, write_atomically
    from genprm.runs.verify import default_concurrency
    from genprm.search.recipe import RecipeError, load_recipe
    from genprm.search.run import search as search_one

    try:
        recipe = load_recipe(path, overrides)
    except RecipeError as error:
        raise UsageError(str(error)) from None
    dumped = recipe.model_dump(mode="json")
    config = cast("dict[str, JsonValue]", flattened(dumped))
    rows = problems_of(recipe.problems)
    out = out or Path("runs") / f"search-{path.stem}-{digest('search', config, FREE)[:8]}"
    with open_run(out, command="search", config=config, free=FREE, clean=clean) as run:
        write_atomically(run.path / RECIPE, yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True))
        progress = Progress(len(rows))
        with session_of(run, progress, partial(_finish, run, recipe, progress)) as session:
            async with (
                policy_of(recipe.policy, recipe.seed, run) as policy,
                prm_of(recipe.prm, recipe.seed, run) as prm,
                AnswerChecker() as checker,
            ):
                grader = AnswerGrader(checker)
                settings = recipe.settings()

                async def work(row: ProblemRow) -> Finished:
                    found = await search_one(
                        row, settings, policy=policy, prm=prm, grader=grader, seed=recipe.seed, keep=recipe.keep
                    )
                    return Finished(found, found.generated)

                capacity = max(model.capacity for model in (policy, prm) if model is not None) if policy or prm else 1
                with session.working() as on_progress:
                    await drive(
                        rows,
                        run,
                        work,
                        concurrency=recipe.concurrency or default_concurrency(capacity, recipe.n),
                        progress=progress,
                        on_progress=on_progress,
                    )
    return FAILED if progress.failed else 0


def problems_of(source: Problems) -> list[ProblemRow | BadRow]:
    """The problems that a recipe names.

    Raises:
        UsageError: there are none.
    """
    from genprm.data import problems

    if source.files:
        rows = problems.read_problems(source.files, problem=source.problem, answer=source.answer)
    elif source.pool:
        rows = problems.read_pools(source.pool)
    elif source.dataset is not None:
        rows = problems.load_dataset(
            source.dataset, config=source.config, split=source.split, problem=source.problem, answer=source.answer
        )
    else:
        rows = problems.generated(source.generate or 0, source.generate_seed)
    found = list(islice(rows, source.limit))
    if not found:
        where = source.files or source.pool or [source.dataset]
        raise UsageError(f"there are no problems in {', '.join(map(repr, where))}")
    return found


@asynccontextmanager
async def policy_of(recipe: PolicyRecipe | None, seed: int, run: RunFolder) -> AsyncGenerator[Policy | None]:
    """Opens the policy, and notes in the run's folder what it came to."""
    if recipe is None:
        yield None
        return
    from genprm.engines import BUILT_IN, load_engine
    from genprm.runs.provenance import weights_of
    from genprm.search.policy import Policy

    async with AsyncExitStack() as stack:
        engine = await load_engine(
            recipe.engine,
            recipe.model,
            base_urls=recipe.base_url,
            revision=recipe.revision,
            dtype=recipe.dtype,
            seed=seed,
            tokenizer=recipe.model if recipe.base_url and recipe.model not in BUILT_IN else None,
            **({"patience_s": recipe.patience_s} if recipe.base_url else {}),
        )
        stack.push_async_callback(engine.close)
        facts: dict[str, JsonValue] = {
            "policy": engine.model_name,
            "policy_weights": None if recipe.base_url else weights_of(engine.model_name, recipe.revision),
            "policy_engine": engine.kind,
        }
        run.note(facts, fixed=tuple(facts))
        yield Policy(engine, recipe.settings())


@asynccontextmanager
async def prm_of(recipe: PRMRecipe | None, seed: int, run: RunFolder) -> AsyncGenerator[PRM | None]:
    """Opens the PRM, and notes in the run's folder what it came to."""
    if recipe is None:
        yield None
        return
    from genprm.cli.judging import opened

    async with opened(judging_of(recipe), seed, run) as prm:
        yield prm


def judging_of(recipe: PRMRecipe) -> Judging:
    """The same, as the other commands have it."""
    from genprm.cli.judging import Judging

    return Judging(
        model=recipe.model,
        family=cast("options.FamilyName | None", recipe.family),
        revision=recipe.revision,
        dtype=recipe.dtype,
        engine=recipe.engine,
        base_url=tuple(recipe.base_url),
        sandbox=recipe.sandbox,
        mode=recipe.mode.value,
        votes=recipe.votes,
        temperature=recipe.temperature,
        threshold=recipe.threshold,
        calibration=None if recipe.calibration is None else Path(recipe.calibration),
        profile=None if recipe.profile is None else Path(recipe.profile),
        reference=recipe.reference,
        reference_url=tuple(recipe.reference_url),
    )


def _finish(run: RunFolder, recipe: Recipe, progress: Progress, session: SessionMetrics, interrupted: bool) -> None:
    """Writes metrics, plots and page, and prints what the run came to."""
    from genprm.benchmarks.searches import evaluate_searches
    from genprm.cli import summary
    from genprm.cli.search_report import plot, print_search
    from genprm.report.search_page import write_search_page
    from genprm.runs.folder import FAILURES, METRICS, REPORT, read_rows_of, write_atomically
    from genprm.runs.rows import FailureRow

    rows = finished_searches(run, progress)
    metrics: SearchMetrics = evaluate_searches(
        rows, recipe.method, failed=progress.failed, width=recipe.width, aggregate=recipe.aggregate
    ).model_copy(update={"session": session, "interrupted": interrupted})
    write_atomically(run.path / METRICS, metrics.model_dump_json(indent=2))
    if interrupted:
        return
    failures = list(read_rows_of(run.path, FailureRow, FAILURES))
    page = run.path / REPORT
    left_out = write_search_page(page, info=run.info, metrics=metrics, rows=rows, failures=failures)
    print_search(stdout(), metrics)
    summary.print_failures(stderr(), failures, str(run.path / FAILURES))
    if left_out:
        stderr().print(f"The page lists all problems, but has no room for the texts of {left_out:,} of them.")
    if plot(run.path / "accuracy.svg", metrics):
        stdout().print(f"plots: {run.path / 'accuracy.svg'}", soft_wrap=True)
    stdout().print(f"page: {page}", soft_wrap=True)


def finished_searches(run: RunFolder, progress: Progress) -> list[SearchRow]:
    """The rows of the folder that belong to the input just read, in its order."""
    from genprm.search.rows import SearchRow

    rows = (row for row in run.rows(SearchRow) if row.key in progress.keys)
    return sorted(rows, key=lambda row: progress.keys[row.key])
