"""`genprm search`: best-of-n, beam search and DVTS, as a recipe says."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from genprm.cli.boundary import FAILED, UsageError, notes, run_async, stdout
from genprm.cli.options import Options, Overrides
from genprm.cli.verify import tell
from genprm.config import JudgeConfig, PolicyConfig, RunConfig, WorkConfig
from genprm.fields import free_fields

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.benchmarks.metrics import SessionMetrics
    from genprm.benchmarks.searches import SearchMetrics
    from genprm.data.inputs import BadRow
    from genprm.data.problems import ProblemRow
    from genprm.prms.base import PRM
    from genprm.runs.driver import Progress
    from genprm.runs.folder import RunFolder
    from genprm.search.policy import Policy
    from genprm.search.recipe import Problems, Recipe
    from genprm.search.rows import SearchRow

RECIPE = "recipe.yaml"
"""The resolved recipe in the run's folder, which repeats the search."""
FREE = (
    "description",
    "problems.limit",
    "problems.sample",
    *free_fields(WorkConfig),
    *free_fields(PolicyConfig, "policy."),
    *free_fields(JudgeConfig, "prm."),
)
"""Keys that do not change results: they may differ when a run is resumed."""

EPILOG = """Examples:\n
  genprm search builtin:best-of-n --out runs/bon\n
  genprm search recipes/math500/genprm-best-of-n.yaml --policy-url http://127.0.0.1:8000/v1 --base-url http://127.0.0.1:8001/v1\n
  genprm search builtin:beam --set n=16 --policy-temperature 0.6 --limit 50"""


def search(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML recipe, or one in the package: `builtin:best-of-n`, `builtin:beam`, `builtin:dvts`.",
            show_default=False,
        ),
    ],
    changes: Annotated[
        dict[str, object],
        Overrides(
            {
                "": (WorkConfig, Options()),
                "prm": (JudgeConfig, Options()),
                "policy": (PolicyConfig, Options("policy")),
            }
        ),
    ],
    run: Annotated[RunConfig, Options(without=tuple(WorkConfig.model_fields))],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Problems, instead of the recipe's.", show_default="the recipe's"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a key of the recipe, such as `n=16` or `choose=weighted`. Repeat for several.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Solves problems with a policy and a PRM, and measures accuracy.

    The run's folder holds one row per problem with every solution, the resolved recipe, accuracies by n and by
    tokens, plots, and a page. The same command resumes a stopped run.
    """  # fmt: skip
    from genprm.search.recipe import load_recipe

    given = {"files": files or None, "limit": run.limit, "sample": run.sample}
    if named := {key: value for key, value in given.items() if value is not None}:
        changes = {**changes, "problems": named}
    resolved = load_recipe(recipe, set_ or (), changes)
    if run.dry_run:
        from genprm.cli.plan import print_plan

        print_plan({name: getattr(resolved, name) for name in type(resolved).model_fields})
        return
    raise typer.Exit(run_async(search_into(recipe.stem.removeprefix("builtin:"), resolved, run)))


async def search_into(name: str, recipe: Recipe, how: RunConfig) -> int:
    """Searches as a recipe says, into a run's folder. Returns the exit code.

    Args:
        name: part of the folder's name where `how` names none.
        recipe: all about the search.
        how: the folder.
    """
    import yaml

    from genprm.benchmarks.searches import flattened
    from genprm.cli.session import session_of
    from genprm.grading.answers import AnswerChecker
    from genprm.grading.solutions import AnswerGrader
    from genprm.runs.driver import Finished, Progress, drive, is_finished, kept
    from genprm.runs.folder import digest, open_run, write_atomically
    from genprm.runs.verify import default_concurrency
    from genprm.search.run import search as search_one

    models = {"policy": recipe.policy, "prm": recipe.prm}
    parts = {key: None if part is None else part.stored() for key, part in models.items()}
    stored = cast("dict[str, JsonValue]", {**flattened({**recipe.stored(), **parts}), **named(recipe.problems)})
    rows = problems_of(recipe.problems, recipe.seed)
    out = how.out or Path("runs") / f"search-{name}-{digest('search', stored, FREE)[:8]}"
    with open_run(out, command="search", config=stored, free=FREE, clean=how.clean) as run:
        dumped = recipe.model_dump(mode="json")
        write_atomically(run.path / RECIPE, yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True))
        progress = Progress(len(rows))
        with session_of(run, progress, partial(_finish, run, recipe, progress, how.as_json), how.track) as session:
            if is_finished(rows, run):
                await kept(rows, run, progress)
                return FAILED if progress.failed else 0
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


def named(problems: Problems) -> dict[str, JsonValue]:
    """The files that problems come from, as `run.json` keeps them: see `genprm.runs.sources`."""
    from genprm.runs.sources import sources

    return {"problems.files": sources(problems.files), "problems.pool": sources(problems.pool)}


def problems_of(source: Problems, seed: int = 0) -> list[ProblemRow | BadRow]:
    """Reads the problems of a recipe.

    Raises:
        UsageError: there are none.
    """
    from genprm.data import problems
    from genprm.data.inputs import take

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
    found = list(take(rows, limit=source.limit, sample=source.sample, seed=seed))
    if not found:
        where = source.files or source.pool or [source.dataset]
        raise UsageError(f"there are no problems in {', '.join(map(repr, where))}")
    return found


@asynccontextmanager
async def policy_of(config: PolicyConfig | None, seed: int, run: RunFolder) -> AsyncGenerator[Policy | None]:
    """Opens the policy, and records it in the run's folder."""
    if config is None:
        yield None
        return
    from genprm.engines import open_engine
    from genprm.runs.provenance import weights_of
    from genprm.search.policy import Policy

    engine = await open_engine(config, seed=seed)
    try:
        facts: dict[str, JsonValue] = {
            "policy": engine.model_name,
            "policy_weights": None if config.base_url else weights_of(engine.model_name, config.revision),
            "policy_engine": engine.kind,
        }
        run.note(facts, fixed=tuple(facts))
        yield Policy(engine, config)
    finally:
        await engine.close()


@asynccontextmanager
async def prm_of(config: JudgeConfig | None, seed: int, run: RunFolder) -> AsyncGenerator[PRM | None]:
    """Opens the PRM, and records it in the run's folder."""
    if config is None:
        yield None
        return
    from genprm.runs.opening import open_judge

    async with open_judge(config, seed=seed, run=run, tell=tell) as prm:
        yield prm


def _finish(
    run: RunFolder, recipe: Recipe, progress: Progress, as_json: bool, session: SessionMetrics, interrupted: bool
) -> None:
    """Writes metrics, plots and page, and prints the result."""
    from genprm.benchmarks.searches import evaluate_searches
    from genprm.cli.search_report import plot, print_search
    from genprm.cli.session import finish_run
    from genprm.report.search_page import write_search_page
    from genprm.runs.rows import FailureRow

    rows = finished_searches(run, progress)
    metrics: SearchMetrics = evaluate_searches(
        rows, recipe.method, failed=progress.failed, n=recipe.n, width=recipe.width, aggregate=recipe.aggregate
    ).model_copy(update={"session": session, "interrupted": interrupted})

    def page(path: Path, failures: list[FailureRow]) -> int:
        return write_search_page(path, info=run.info, metrics=metrics, rows=rows, failures=failures)

    def plots() -> None:
        if plot(run.path / "accuracy.svg", metrics):
            (notes() if as_json else stdout()).print(f"plots: {run.path / 'accuracy.svg'}", soft_wrap=True)

    table = partial(print_search, stdout(), metrics)
    finish_run(run, metrics, interrupted=interrupted, table=table, page=page, more=plots, as_json=as_json)


def finished_searches(run: RunFolder, progress: Progress) -> list[SearchRow]:
    """The folder's rows for the input just read, in its order."""
    from genprm.search.rows import SearchRow

    rows = (row for row in run.rows(SearchRow) if row.key in progress.keys)
    return sorted(rows, key=lambda row: progress.keys[row.key])
