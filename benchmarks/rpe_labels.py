"""Step labels of the built-in policy's solutions, against the known truth about the generated word problems.

* Every method and threshold, from the same rollouts: how often the labelled first error is the true one, with 95 %
  intervals over problems, and the F1 of ProcessBench.
* The same after consensus with the built-in judge: only solutions for which it names the same first error.
* The adaptive budget against 512 rollouts per prefix, where these are decided, on the first problems.

Run it as `python -P benchmarks/rpe_labels.py`: without -P, the sandbox.py of this folder would be imported first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm import load_prm
from genprm.benchmarks.processbench import f1_score
from genprm.benchmarks.statistics import mean_interval
from genprm.data.word_problems import WordProblem, first_error, make_problems
from genprm.engines import load_engine
from genprm.grading.answers import AnswerChecker
from genprm.rpe.journal import Journal
from genprm.rpe.labels import Method, dynamic_rollouts, first_wrong, step_labels
from genprm.rpe.posterior import Counts, probability
from genprm.rpe.rollouts import Labeller, Settings
from genprm.rpe.rows import LabelRow, SolutionRow

METHODS = [
    (Method.HARD, 0.0),
    *((Method.RATIO, threshold) for threshold in (0.1, 0.5, 0.8, 1.0)),
    *((Method.DIFFERENCE, threshold) for threshold in (-0.1, -0.3, -0.5)),
]
REFERENCE = 512


async def label(problems: Sequence[WordProblem], budget: str | int, settings: dict[str, int | float]) -> list[LabelRow]:
    """Returns rows in the order of the problems. Every call samples the same solutions."""
    engine = await load_engine("transformers", "nano-policy", max_num_seqs=128)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), ())
        async with AnswerChecker() as checker:
            labeller = Labeller(engine, None, checker, journal, Settings(budget=budget, **settings))  # type: ignore[arg-type]
            gate = asyncio.Semaphore(8)

            async def one(problem: WordProblem) -> LabelRow:
                async with gate:
                    return await labeller.label(problem.id, problem.text, problem.answer, problem.id)

            rows = await asyncio.gather(*(one(problem) for problem in problems))
        journal.close()
    await engine.close()
    return rows


def relabelled(row: LabelRow, solution: SolutionRow, method: Method, threshold: float) -> int:
    assert row.start is not None
    labels = step_labels(
        [value.successes / value.rollouts for value in solution.values],
        start=row.start.successes / row.start.rollouts,
        method=method,
        threshold=threshold,
    )
    first = first_wrong([found.label for found in labels])
    assert first is not None, "labels of a fixed number of rollouts are all known"
    return first


def figures(hits: dict[str, list[bool]], predictions: Sequence[int], truths: Sequence[int]) -> dict[str, float]:
    """Mean of the problems' accuracies with its interval (solutions of one problem are not independent), and F1."""
    means = [sum(found) / len(found) for found in hits.values()]
    interval = mean_interval(means)
    score = f1_score(predictions, truths)
    return {
        "accuracy": round(sum(means) / len(means), 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "f1": round(score.f1 or 0.0, 4),
        "error_accuracy": round(score.error_accuracy or 0.0, 4),
        "correct_accuracy": round(score.correct_accuracy or 0.0, 4),
        "solutions": len(truths),
    }


async def judged(rows: Sequence[LabelRow]) -> dict[tuple[str, int], int | None]:
    prm = await load_prm("nano")
    gate = asyncio.Semaphore(32)

    async def one(row: LabelRow, number: int, steps: Sequence[str]) -> tuple[tuple[str, int], int | None]:
        async with gate:
            return (row.key, number), (await prm.judge(row.problem, steps)).first_error

    tasks = [one(row, number, s.steps) for row in rows for number, s in enumerate(row.solutions)]
    found = dict(await asyncio.gather(*tasks))
    await prm.close()
    return found


def against_truth(
    rows: Sequence[LabelRow], problems: Sequence[WordProblem], judge: dict[tuple[str, int], int | None]
) -> dict[str, dict[str, dict[str, float]]]:
    by_id = {problem.id: problem for problem in problems}
    made: dict[str, dict[str, dict[str, float]]] = {}
    for method, threshold in METHODS:
        all_, kept = ([], [], defaultdict(list)), ([], [], defaultdict(list))
        for row in rows:
            for number, solution in enumerate(row.solutions):
                truth = first_error(by_id[row.key], solution.steps)
                predicted = relabelled(row, solution, method, threshold)
                for group in (all_, kept) if judge.get((row.key, number)) == predicted else (all_,):
                    group[0].append(predicted)
                    group[1].append(truth)
                    group[2][row.key].append(predicted == truth)
        name = method.value if method is Method.HARD else f"{method.value} {threshold}"
        made[name] = {"all": figures(all_[2], all_[0], all_[1])}
        if kept[0]:
            made[name]["consensus"] = figures(kept[2], kept[0], kept[1])
    return made


def against_reference(rows: Sequence[LabelRow], reference: Sequence[LabelRow]) -> dict[str, float]:
    agree = compared = undecided = spent = fixed = 0
    for row, sure in zip(rows, reference, strict=True):
        if row.dropped or sure.start is None:
            continue
        k = dynamic_rollouts(sure.start.successes / sure.start.rollouts)
        spent += row.rollouts
        fixed += k * len({tuple(s.steps[:n]) for s in sure.solutions for n in range(1, len(s.steps))})
        for solution, same in zip(row.solutions, sure.solutions, strict=True):
            assert solution.steps == same.steps
            chain = [sure.start, *same.values]
            for index, (before, after) in enumerate(pairwise(chain)):
                p = probability(
                    Counts(before.successes, before.rollouts), Counts(after.successes, after.rollouts, after.exact), 0.8
                )
                if 0.05 < p < 0.95:
                    continue
                found = solution.labels[index].label
                undecided += found is None
                compared += found is not None
                agree += found is not None and found == (p >= 0.95)
                if p <= 0.05:
                    break
    return {
        "share_of_dynamic_rollouts": round(spent / max(1, fixed), 4),
        "agreement": round(agree / max(1, compared), 4),
        "labels_compared": compared,
        "undecided": undecided,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--rollouts", type=int, default=64, help="rollouts per prefix, for the comparison of methods")
    parser.add_argument("--reference-problems", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--judge", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    problems = make_problems(options.problems, options.seed)
    settings = {"temperature": options.temperature, "max_tokens": 300, "most": 64}
    started = time.perf_counter()
    rows = await label(problems, options.rollouts, settings)
    seconds = time.perf_counter() - started
    judge = await judged(rows) if options.judge else {}
    made: dict[str, object] = {
        "problems": len(rows),
        "dropped": sum(row.dropped is not None for row in rows),
        "pass_at_1": round(sum(row.samples.pass_at_1 for row in rows) / len(rows), 4),
        "rollouts": sum(row.rollouts for row in rows),
        "rollouts_per_s": round(sum(row.rollouts for row in rows) / seconds, 1),
        "methods": against_truth(rows, problems, judge),
    }
    print(f"{'method':18} {'labels':>9}   accuracy [95 %]            F1   {'consensus':>9}   accuracy [95 %]")
    for name, found in made["methods"].items():  # type: ignore[union-attr]
        line = f"{name:18}"
        for which in ("all", "consensus"):
            if which in found:
                f = found[which]
                line += f" {f['solutions']:9}   {f['accuracy']:.1%} [{f['low']:.1%}, {f['high']:.1%}]   {f['f1']:.1%}"
        print(line, flush=True)
    if options.reference_problems:
        few = problems[: options.reference_problems]
        adaptive = await label(few, "adaptive", settings)
        made["adaptive"] = against_reference(adaptive, await label(few, REFERENCE, settings))
        print(f"adaptive against {REFERENCE} rollouts: {made['adaptive']}")
    if options.save:
        path = Path(__file__).parent / "results/rpe_labels.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made))


if __name__ == "__main__":
    asyncio.run(main())
