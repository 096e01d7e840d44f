"""Judges made by `genprm loop` from random weights, by how their data was made: one table, several seeds.

* labels: the same rollouts, labelled by each method.
* rationale: the verdict alone, with an analysis, with code that is not run, with code that is run.
* filter: verification chains (ThinkPRM) that match all labels, that match the outcome, or all of them.
* size: fewer problems.
* votes: the same judge, asked more than once.

Rollouts are made once a seed and shared. What is finished is never done again, also after a kill. F1 is ProcessBench's,
on the policy's solutions of other problems, labelled by the truth; the interval resamples the solutions of each seed.

usage: python -P benchmarks/loop.py [--only labels ...] [--seeds 0 1 2] [--set problems.generate=100 ...] [--save]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm import prompts
from genprm.benchmarks.statistics import Hit, f1_interval
from genprm.cli.loop import HELD_OUT, loop_into, stored_recipe
from genprm.config import RunConfig
from genprm.prms.genprm.protocol import ANALYSIS_END
from genprm.rpe.labels import DEFAULT_THRESHOLDS, Method, first_wrong, step_labels
from genprm.rpe.rows import LabelRow, SynthesisRow
from genprm.runs.folder import ROWS, RUN, open_run, read_rows_of, write_atomically
from genprm.runs.rows import VerifyRow
from genprm.search.recipe import read_recipe
from genprm.train.loop import LoopRecipe, StageRow

RESULTS = Path(__file__).parent / "results"
LABEL, CRITIQUES, TRAIN = "round-1/label", "round-1/synthesize", "round-1/train"
Change = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to make a judge."""

    settings: tuple[str, ...] = ()
    """Over the recipe, as `--set` takes them."""
    reuse: tuple[str, ...] = (HELD_OUT, LABEL)
    """Stages that are those of the seed's first loop."""
    change: Change | None = None
    """What is done to the copied stages."""


def relabel(method: Method) -> Change:
    """Labels by another method, from the same rollouts."""

    def change(folder: Path) -> None:
        def again(row: LabelRow) -> LabelRow:
            if row.start is None or not row.solutions:
                return row
            made = []
            for solution in row.solutions:
                labels = step_labels(
                    [value.successes / value.rollouts for value in solution.values],
                    start=row.start.successes / row.start.rollouts,
                    method=method,
                    threshold=DEFAULT_THRESHOLDS[method],
                )
                first = first_wrong([one.label for one in labels])
                made.append(solution.model_copy(update={"first_error": first}))
            return row.model_copy(update={"solutions": made})

        label = folder / LABEL
        rows = [again(row).model_dump_json() + "\n" for row in read_rows_of(label, LabelRow)]
        write_atomically(label / ROWS, "".join(rows))
        info = json.loads((label / RUN).read_text())
        info["config"] |= {"method": method.value, "threshold": DEFAULT_THRESHOLDS[method]}
        info["digest"] = f"{info['digest'][:48]}-{method.value}"
        write_atomically(label / RUN, json.dumps(info, indent=2))

    return change


def shorten(part: str) -> Change:
    """Critiques without code (`analysis`), or the verdicts alone (`none`)."""
    verify, output = prompts.render("genprm/verify"), prompts.render("genprm/output")

    def shorter(turn: str) -> str:
        verdict = output + turn.rpartition(output)[2]
        return verdict if part == "none" else turn.partition(ANALYSIS_END)[0] + ANALYSIS_END + verdict

    def change(folder: Path) -> None:
        from genprm.rpe.dataset import synthesis_metrics, write_training
        from genprm.runs.folder import read_info

        critiques = folder / CRITIQUES
        rows = []
        for row in sorted(read_rows_of(critiques, SynthesisRow), key=lambda row: row.key):
            messages = [
                one.model_copy(update={"content": shorter(one.content)}) if one.role == "assistant" else one
                for one in row.messages
            ]
            if any(verify in one.content for one in messages):
                raise AssertionError(f"code is left in {messages[-1].content!r}")
            rows.append(row.model_copy(update={"messages": messages}))
        write_training(critiques / "dataset", rows, read_info(critiques), synthesis_metrics(rows))

    return change


def half(share: int, recipe: LoopRecipe) -> Variant:
    """A part of the problems; the first ones, so that a smaller set is part of a larger one."""
    return Variant((f"problems.limit={max(1, (recipe.problems.generate or 0) // share)}",), (HELD_OUT,))


def variants(recipe: LoopRecipe) -> dict[str, dict[str, Variant]]:
    """All that is compared: part -> name -> variant. `ratio` is the seed's first loop, and part of each comparison."""
    think = ("synthesize.style=thinkprm", "synthesize.temperature=0.1", "train.family=thinkprm", "benchmark.until=end")
    upto = (HELD_OUT, LABEL, CRITIQUES)
    trained = (*upto, TRAIN)
    return {
        "labels": {
            "ratio": Variant(),
            "difference": Variant(("label.method=difference",), change=relabel(Method.DIFFERENCE)),
            "hard": Variant(("label.method=hard",), change=relabel(Method.HARD)),
        },
        "rationale": {
            "none": Variant(("benchmark.mode=direct",), upto, shorten("none")),
            "analysis": Variant(("benchmark.mode=analyze",), upto, shorten("analysis")),
            "code, not run": Variant(("benchmark.mode=code",), trained),
            "code, run": Variant(),
        },
        "filter": {name: Variant((*think, f"synthesize.filter={name}")) for name in ("process", "outcome", "none")},
        "size": {"1/4": half(4, recipe), "1/2": half(2, recipe), "all": Variant()},
        "votes": {
            "1": Variant(("benchmark.temperature=1",), trained),
            "8": Variant(("benchmark.temperature=1", "benchmark.votes=8"), trained),
        },
    }


def resolved(options: argparse.Namespace, seed: int, variant: Variant) -> LoopRecipe:
    """The recipe of one loop. Nothing is searched with: it costs more than all the rest."""
    settings = [*options.set, "search=null", f"seed={seed}", f"train.seed={seed}", *variant.settings]
    return read_recipe(options.recipe, LoopRecipe, settings)


def run(options: argparse.Namespace, seed: int, part: str, name: str, variant: Variant) -> tuple[Path, float]:
    """Makes one judge, where it is not made yet. Returns the folder of its loop, and the seconds of its stages."""
    first = options.out / f"seed-{seed}" / "ratio"
    plain = variant == Variant()
    folder = first if plain else options.out / f"seed-{seed}" / f"{part}-{name.replace('/', '-of-')}".replace(", ", "-")
    recipe = resolved(options, seed, variant)
    if not plain:
        run(options, seed, "labels", "ratio", Variant())
        if not (folder / ROWS).exists():
            copy(first, folder, recipe, variant)
    print(f"seed {seed}, {part}: {name}", flush=True)
    loop_into("benchmark", recipe, RunConfig(out=folder))
    return folder, sum(row.seconds for row in read_rows_of(folder, StageRow))


def copy(first: Path, folder: Path, recipe: LoopRecipe, variant: Variant) -> None:
    """Begins a loop with stages of another one. The folder appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    done = {row.key: row for row in read_rows_of(first, StageRow)}
    with open_run(temporary, command="loop", config=stored_recipe(recipe), free=recipe.free()) as opened:
        for key in variant.reuse:
            shutil.copytree(first / key, temporary / key, ignore=shutil.ignore_patterns("checkpoints", ".lock"))
            opened.add(done[key], key)
    if variant.change is not None:
        variant.change(temporary)
    temporary.rename(folder)


def hits(folder: Path) -> list[Hit]:
    """Which solutions of the benchmark were judged as they are."""
    rows = read_rows_of(folder / "round-1" / "benchmark", VerifyRow)
    return [Hit(row.label != -1, row.first_error == row.label) for row in rows]


def figures(folders: Sequence[Path]) -> dict[str, float | int | None]:
    """Mean F1 over the seeds, with its interval."""
    seeds = [hits(folder) for folder in folders]
    scores: list[float] = []
    for rows in seeds:
        wrong, right = ([row.hit for row in rows if row.error is error] for error in (True, False))
        a, b = sum(wrong) / len(wrong), sum(right) / len(right)
        scores.append(2 * a * b / (a + b) if a + b else 0.0)
    interval = f1_interval(seeds)
    kept = [row.figures.get("critiques") or 0 for f in folders for row in read_rows_of(f, StageRow) if row.key == TRAIN]
    return {
        "f1": round(sum(scores) / len(scores), 4),
        "low": None if interval is None else round(interval.low, 4),
        "high": None if interval is None else round(interval.high, 4),
        "seeds": len(seeds),
        "solutions": sum(map(len, seeds)),
        "trained_on": round(sum(kept) / len(kept)) if kept else 0,
    }


def main() -> None:
    """Makes the judges, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("builtin:loop"))
    parser.add_argument("--only", nargs="*", default=["labels"], help="parts (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], help="other values for keys of the recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/loop-benchmark"))
    parser.add_argument("--save", action="store_true", help="enter it into benchmarks/results/loop.json")
    options = parser.parse_args()
    parts = variants(resolved(options, 0, Variant()))
    if unknown := set(options.only) - set(parts):
        parser.error(f"there is no part {sorted(unknown)}; there are {', '.join(parts)}")
    started, found = time.perf_counter(), {}
    for part in options.only:
        found[part] = {}
        for name, variant in parts[part].items():
            done = [run(options, seed, part, name, variant) for seed in options.seeds]
            found[part][name] = {**figures([folder for folder, _ in done]), "seconds": round(sum(s for _, s in done))}
    print(
        f"\n{'':<12}{'':<16}{'F1':>7}{'95 % interval':>17}{'seeds':>7}{'solutions':>11}{'trained on':>12}{'seconds':>9}"
    )
    for part, rows in found.items():
        for name, row in rows.items():
            low, high = (f"{100 * row[key]:.1f}" if row[key] is not None else "-" for key in ("low", "high"))
            print(
                f"{part:<12}{name:<16}{100 * row['f1']:>7.1f}{low + ' to ' + high:>17}{row['seeds']:>7}"
                f"{row['solutions']:>11}{row['trained_on']:>12}{row['seconds']:>9,}"
            )
    print(f"{time.perf_counter() - started:,.0f} s for what was not done before")
    line = json.dumps(found)
    if options.save:
        path = RESULTS / "loop.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(kept | found) + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
