"""`genprm loop`: from a policy's rollouts to a better judge, as a recipe says."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Coroutine
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from genprm.cli.boundary import notes, run_async, stderr, stdout
from genprm.cli.options import Options
from genprm.config import JudgeConfig, RunConfig

if TYPE_CHECKING:
    from pydantic import JsonValue

    from genprm.config import TrackerName
    from genprm.runs.folder import RunFolder
    from genprm.runs.rows import FailureRow
    from genprm.search.recipe import Problems
    from genprm.train.loop import LoopRecipe, StageRow

HELD_OUT = "held-out"

EPILOG = """Examples:\n
  genprm loop builtin:loop --out runs/loop\n
  genprm loop builtin:loop --set rounds=2 --set problems.generate=1000\n
  genprm loop recipe.yaml --dry-run"""


def loop(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML recipe, or one in the package: `builtin:loop`, `builtin:loop-tiny`.",
            show_default=False,
        ),
    ],
    run: Annotated[RunConfig, Options(without=("seed", "concurrency", "keep", "limit", "sample", "dry_run"))],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a key of the recipe, such as `rounds=2` or `train.epochs=3`. Repeat for several.",
            show_default="none",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and exit.")] = False,
) -> None:
    """Labels a policy's solutions, has rationales written, trains a judge on them, measures it, and searches with it.

    Every stage is a run of its own command in a subfolder. The same command resumes a stopped loop, also in the middle
    of a stage. A stage that produced too little for the next one ends the loop. `report.html` shows all stages.
    """
    from genprm.search.recipe import read_recipe
    from genprm.train.loop import LoopRecipe

    resolved = read_recipe(recipe, LoopRecipe, set_ or ())
    if dry_run:
        from genprm.cli.plan import print_plan

        print_plan({name: getattr(resolved, name) for name in type(resolved).model_fields})
        return
    loop_into(recipe.stem.removeprefix("builtin:"), resolved, run)


def loop_into(name: str, recipe: LoopRecipe, how: RunConfig) -> None:
    """Runs the remaining stages.

    Args:
        name: part of the folder's name if `how` has none.
        recipe: the loop's recipe.
        how: the folder.

    Raises:
        LoopError: a stage produced too little, or too many of its rows failed.
        typer.Exit: a signal stopped it.
    """
    from genprm.cli.session import print_json
    from genprm.cli.summary import print_stages
    from genprm.rpe.dataset import check_installed as data_installed
    from genprm.runs.folder import digest, open_run
    from genprm.train.sft import check_installed

    check_installed()
    data_installed()
    stored = stored_recipe(recipe)
    out = how.out or Path("runs") / f"loop-{name}-{digest('loop', stored, recipe.free())[:8]}"
    with open_run(out, command="loop", config=stored, free=recipe.free(), clean=how.clean) as run:
        if how.clean:
            for old in (*out.glob("round-*"), out / HELD_OUT):
                shutil.rmtree(old, ignore_errors=True)
        stages = Loop(recipe, run, how.track).go()
    if how.as_json:
        print_json("loop", stored, cast("JsonValue", {"stages": stages, "stopped": None}))
    else:
        print_stages(stdout(), stages)
    (notes() if how.as_json else stdout()).print(f"page: {out / 'report.html'}", soft_wrap=True)


def stored_recipe(recipe: LoopRecipe) -> dict[str, JsonValue]:
    """A recipe's fields for `run.json`."""
    from genprm.benchmarks.searches import flattened
    from genprm.fields import Config

    parts = {key: getattr(recipe, key) for key in type(recipe).model_fields}
    plain = {key: value.stored() if isinstance(value, Config) else value for key, value in parts.items()}
    return cast("dict[str, JsonValue]", flattened(plain))


class Loop:
    """The stages of a loop, each done once."""

    def __init__(self, recipe: LoopRecipe, run: RunFolder, track: TrackerName = "none") -> None:
        from genprm.train.loop import StageRow

        self._recipe = recipe
        self._run = run
        self._track: TrackerName = track
        self._rows = {row.key: row for row in run.rows(StageRow)}
        self._judge: Path | None = None

    def go(self) -> list[dict[str, Any]]:
        """Runs the remaining stages. Returns what `metrics.json` has of all."""
        recipe = self._recipe
        if recipe.benchmark is not None and recipe.benchmark.generate:
            self._stage(0, HELD_OUT, self._held_out)
        for number in range(1, recipe.rounds + 1):
            self._stage(number, "label", partial(self._label, number))
            self._stage(number, "synthesize", partial(self._synthesize, number))
            judge = self._stage(number, "train", partial(self._train, number))
            self._judge = judge
            if recipe.benchmark is not None:
                self._stage(number, "benchmark", partial(self._benchmark, number))
            if recipe.search is not None:
                self._stage(number, "search", partial(self._search, number))
        self._page(None)
        return [row.model_dump() for row in self._rows.values()]

    def _stage(self, number: int, stage: str, work: Callable[[Path], dict[str, Any]]) -> Path:
        """Runs a stage unless it is finished. Returns its folder."""
        from genprm.train.loop import LoopError, StageRow, gate

        key = f"round-{number}/{stage}" if number else stage
        folder = self._run.path / key
        if key in self._rows:
            stderr().print(f"{key}: done", markup=False)
            return folder
        stderr().print(f"{key}", style="bold", markup=False)
        started = time.perf_counter()
        try:
            found = work(folder)
        except LoopError as error:
            self._page(str(error))
            raise
        figures = {name: value for name, value in found.items() if value is None or type(value) in (int, float)}
        if failed := len(_failures(folder)):
            figures["failed"] = failed
        row = StageRow(
            key=key, round=number, stage=stage, figures=figures, seconds=round(time.perf_counter() - started, 1)
        )
        why = gate(stage, figures, self._recipe.gates)
        if why is not None:
            self._page(f"{key}: {why}", row)
            raise LoopError(f"{key}: {why}. The same command resumes here.")
        self._run.add(row, key)
        self._rows[key] = row
        self._page(None)
        return folder

    def _do(self, folder: Path, command: Coroutine[Any, Any, int]) -> dict[str, Any]:
        """Runs a stage's command to its end. Returns its metrics.

        Raises:
            LoopError: more rows failed than may.
        """
        from genprm.runs.folder import FAILURES
        from genprm.train.loop import LoopError

        run_async(command)
        failed = _failures(folder)
        most = self._recipe.gates.failed
        if len(failed) > most:
            raise LoopError(
                f"{folder.relative_to(self._run.path)}: failed rows: {len(failed):,}, "
                f"and gates.failed allows {most:,}. {str(folder / FAILURES)!r} names them; the first: "
                f"{failed[0].reason:.200}. "
                "The same command tries them again; with a larger gates.failed it goes on without them."
            )
        return _metrics(folder)

    @cached_property
    def _measured(self) -> set[str]:
        """The problems that the judge is measured on, which no round learns from."""
        from genprm.cli.search import problems_of
        from genprm.data.inputs import read_rows
        from genprm.data.problems import generated

        benchmark, search = self._recipe.benchmark, self._recipe.search
        rows: list[object] = []
        if benchmark is not None:
            rows += read_rows(benchmark.files)
            rows += generated(benchmark.generate or 0, benchmark.generate_seed)
        if search is not None:
            rows += problems_of(search.problems, search.seed)
        return {problem for row in rows if (problem := getattr(row, "problem", None)) is not None}

    def _how(self, folder: Path, seed: int, problems: Problems | None = None) -> RunConfig:
        """How a stage's command runs."""
        how = RunConfig(out=folder, seed=seed, track=self._track)
        if problems is None:
            return how
        return how.model_copy(update={"limit": problems.limit, "sample": problems.sample})

    def _label(self, number: int, folder: Path) -> dict[str, Any]:
        from genprm.cli.label import label_into
        from genprm.config import ClusterConfig, EngineConfig
        from genprm.rpe.config import LabelConfig
        from genprm.train.loop import part

        section, recipe = self._recipe.label, self._recipe
        how = self._how(folder, recipe.seed + number - 1, recipe.problems)
        parts = part(section, LabelConfig), part(section, EngineConfig), part(section, ClusterConfig)
        files = list(recipe.problems.files)
        command = label_into(recipe.source(number), files, *parts, how, None, without=self._measured)
        counts = self._do(folder, command)
        rows = _label_rows(folder)
        decided = [s.first_error for row in rows for s in row.solutions if s.first_error is not None]
        return {**counts, "labelled": len(decided), "labelled_wrong": sum(label >= 0 for label in decided)}

    def _synthesize(self, number: int, folder: Path) -> dict[str, Any]:
        from genprm.cli.synthesize import synthesize_into

        how = self._how(folder, self._recipe.seed + number - 1)
        counts = self._do(folder, synthesize_into(folder.parent / "label", self._recipe.synthesize, how, None))
        return {**counts, "kept_right": counts["kept"] - counts["kept_with_a_wrong_step"]}

    def _train(self, number: int, folder: Path) -> dict[str, Any]:
        from genprm.cli.train import sft_into

        changes: dict[str, object] = {"data": str(folder.parent / "synthesize"), "out": folder}
        if self._track != "none":
            changes["track"] = self._track
        if self._judge is not None:
            changes |= {"model": str(self._judge), "revision": None, "from_scratch": False}
        sft_into(self._recipe.train.model_copy(update=changes))
        counts = _metrics(folder)
        return {"steps": counts["steps"], "loss": counts["loss"], **counts["metrics"], **counts["data"]}

    def _benchmark(self, number: int, folder: Path) -> dict[str, Any]:
        from genprm.cli.bench import processbench_into
        from genprm.train.loop import part

        section = self._recipe.benchmark
        assert section is not None
        files = list(section.files) or [str(self._run.path / HELD_OUT / f"{HELD_OUT}.jsonl")]
        judge = part(section, JudgeConfig, model=str(folder.parent / "train"))
        table = self._do(folder, processbench_into(files, judge, self._how(folder, self._recipe.seed)))["processbench"]
        accuracies = {}
        if len(table["subsets"]) == 1:
            accuracies = {name: table["subsets"][0][name] for name in ("rows", "error_accuracy", "correct_accuracy")}
        return {"f1": table["macro_f1"], "low": table["macro_low"], "high": table["macro_high"], **accuracies}

    def _search(self, number: int, folder: Path) -> dict[str, Any]:
        from genprm.cli.search import search_into

        section = self._recipe.search
        assert section is not None
        assert section.prm is not None
        prm = section.prm.model_copy(update={"model": str(folder.parent / "train")})
        search = search_into("loop", section.model_copy(update={"prm": prm}), self._how(folder, section.seed))
        counts = self._do(folder, search)
        return {name: counts[name] for name in ("accuracy", "low", "high", "rows")} | _best_of_n(counts)

    def _held_out(self, folder: Path) -> dict[str, Any]:
        """The policy's solutions of held-out problems, labelled by the truth."""
        from genprm.cli.label import label_into
        from genprm.config import ClusterConfig, EngineConfig
        from genprm.data.word_problems import find_problem, first_error
        from genprm.rpe.config import LabelConfig
        from genprm.runs.folder import write_atomically
        from genprm.train.loop import part

        recipe, section = self._recipe, self._recipe.benchmark
        assert section is not None
        # One rollout: only the solutions are needed; labels come from the truth.
        parts = (
            part(recipe.label, LabelConfig, budget=1),
            part(recipe.label, EngineConfig),
            part(recipe.label, ClusterConfig),
        )
        source: dict[str, JsonValue] = {
            "files": [],
            "generate": section.generate,
            "generate_seed": section.generate_seed,
        }
        self._do(folder, label_into(source, [], *parts, self._how(folder, recipe.seed), None))
        made: list[dict[str, object]] = []
        for row in sorted(_label_rows(folder), key=lambda row: row.key):
            problem = find_problem(row.id, row.problem)
            if problem is None:
                continue
            for solution in row.solutions:
                label = first_error(problem, solution.steps)
                made.append(
                    {"id": f"{HELD_OUT}-{len(made)}", "problem": row.problem, "steps": solution.steps, "label": label}
                )
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in made)
        write_atomically(folder / f"{HELD_OUT}.jsonl", text)
        return {"solutions": len(made), "wrong": sum(one["label"] != -1 for one in made)}

    def _page(self, stopped: str | None, last: StageRow | None = None) -> None:
        from genprm.report.loop_page import write_loop_page
        from genprm.runs.folder import METRICS, write_atomically

        rows = [*self._rows.values(), *([last] if last is not None else [])]
        metrics = {"stages": [row.model_dump() for row in rows], "stopped": stopped}
        write_atomically(self._run.path / METRICS, json.dumps(metrics, indent=2))
        write_loop_page(self._run.path, info=self._run.info, rows=rows, stopped=stopped)


def _metrics(folder: Path) -> dict[str, Any]:
    from genprm.runs.folder import METRICS

    return json.loads((folder / METRICS).read_text(encoding="utf-8"))


def _failures(folder: Path) -> list[FailureRow]:
    """The rows of a stage that failed when it last ran."""
    from genprm.runs.folder import FAILURES, read_rows_of
    from genprm.runs.rows import FailureRow

    return list(read_rows_of(folder, FailureRow, FAILURES))


def _label_rows(folder: Path) -> list[Any]:
    from genprm.rpe.rows import LabelRow
    from genprm.runs.folder import read_rows_of

    return list(read_rows_of(folder, LabelRow))


def _best_of_n(counts: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of the methods of choosing among all solutions, with and without the judge."""
    methods = (counts.get("best_of_n") or {}).get("methods", [])
    most = max((one["n"] for one in methods), default=0)
    return {f"{one['method']}, n={one['n']}": one["accuracy"] for one in methods if one["n"] == most}
