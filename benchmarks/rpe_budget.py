"""The adaptive budget against the paper's dynamic number of rollouts, by simulation.

Solutions are drawn from worlds in which the true value of every prefix is known. A step is wrong when it takes the
value below 0.8 times the value before; the first such step is the truth.

* `factor F`: 8 steps and a right final answer. The value starts at 0.43 and rises evenly to 1, but for one step that
  multiplies it by F. `factor none` has no such step. These are the worlds in which a fall can hide in a span.
* `grow`, `jump`, `dips`, `flat`: 4 to 12 steps from a value between 0.1 and 0.9; seven in ten have a step that
  multiplies it by 0.6. Right steps raise the value evenly; or one in four brings most of the progress; or they change
  it by a factor of 0.84 to 1.25; or never change it.
* `hard` and `easy`: the same from below 0.2 (flat, factor 0.5) and from above 0.8 (growing).
* `uniform`: one step between two values drawn uniformly from [0, 1].
* `late`, `soon`, `two`: made after the default confidence was chosen on the worlds above, to check it. 3 to 15 steps
  from a value between 0.15 and 0.85, and a factor drawn from 0.4 to 0.75. Right steps bring most of the progress at
  the end, or at the beginning; `two` has two errors, and the first one counts.
* `killing`: 2 to 8 steps, half of the solutions with an error, three in four of which take the value to 0.

Every method sees 32 rollouts of the problem alone, which are not charged; all others are.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.rpe.budget import plan
from genprm.rpe.labels import CONFIDENCE, dynamic_rollouts, first_wrong, step_labels
from genprm.rpe.posterior import Counts, posterior_mean, value_interval

START = 32
THRESHOLD = 0.8


@dataclass
class Solution:
    values: list[float]
    """Of the problem alone, and after each step that is rolled out."""
    final: bool | None
    """Whether the final answer is right; None where the last step is rolled out too."""

    @property
    def truth(self) -> int:
        values = self.values if self.final is None else [*self.values, float(self.final)]
        labels = [before > 0 and after >= THRESHOLD * before for before, after in pairwise(values)]
        return -1 if all(labels) else labels.index(False)


World = Callable[[random.Random], Solution]
Right = Callable[[random.Random, float, int], float]
"""The factor of a right step, by the value before it and the number of steps that are left."""


def factor(by: float | None) -> World:
    def draw(rng: random.Random) -> Solution:
        values, wrong = [0.43], rng.randrange(7)
        for index in range(7):
            growth = by if by is not None and index == wrong else 0.43 ** (-1 / 8)
            values.append(min(1.0, values[-1] * growth))
        return Solution(values, True)

    return draw


def path(right: Right, low: float = 0.1, high: float = 0.9, by: float = 0.6) -> World:
    def draw(rng: random.Random) -> Solution:
        values, steps = [rng.uniform(low, high)], rng.randint(4, 12)
        wrong = rng.randrange(steps - 1) if rng.random() < 0.7 else -1
        for index in range(steps - 1):
            change = by if index == wrong else right(rng, values[-1], steps - index)
            values.append(min(0.995, values[-1] * change))
        return Solution(values, rng.random() < values[-1])

    return draw


def grow(_: random.Random, value: float, left: int) -> float:
    return value ** (-1 / left)


def jump(rng: random.Random, value: float, _: int) -> float:
    return value ** -rng.uniform(0.5, 0.9) if rng.random() < 0.25 else rng.uniform(0.95, 1.05)


def dips(rng: random.Random, _value: float, _left: int) -> float:
    return rng.uniform(0.84, 1.25)


def flat(_rng: random.Random, _value: float, _left: int) -> float:
    return 1.0


def bent(power: float, errors: int = 1) -> World:
    """The logarithm of the value falls to zero as `1 - t ** power` over the solution."""

    def draw(rng: random.Random) -> Solution:
        values, steps = [rng.uniform(0.15, 0.85)], rng.randint(3, 15)
        wrong = rng.sample(range(steps - 1), min(errors, steps - 1)) if rng.random() < 0.7 else []
        for index in range(steps - 1):
            gone, done = ((at / steps) ** power for at in (index, index + 1))
            change = rng.uniform(0.4, 0.75) if index in wrong else values[0] ** (gone - done)
            values.append(min(0.995, values[-1] * change))
        return Solution(values, rng.random() < values[-1])

    return draw


def uniform(rng: random.Random) -> Solution:
    return Solution([rng.random(), rng.random()], None)


def killing(rng: random.Random) -> Solution:
    steps, chance = rng.randint(2, 8), rng.uniform(0.75, 0.98)
    values, wrong = [chance**steps], rng.randrange(steps) if rng.random() < 0.5 else -1
    for index in range(steps):
        change = rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 0.5)]) if index == wrong else 1 / chance
        values.append(min(1.0, values[-1] * change))
    return Solution(values[:-1], values[-1] > 0 and wrong == -1)


WORLDS: dict[str, World] = {
    **{f"factor {by}": factor(by) for by in (0.0, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8)},
    "factor none": factor(None),
    "grow": path(grow),
    "jump": path(jump),
    "dips": path(dips),
    "flat": path(flat),
    "hard": path(flat, 0.05, 0.2, 0.5),
    "easy": path(grow, 0.8, 0.95),
    "uniform": uniform,
    "late": bent(3),
    "soon": bent(1 / 3),
    "two": bent(1, errors=2),
    "killing": killing,
}
ADAPTIVE: dict[str, dict[str, float | bool]] = {
    **{f"adaptive {confidence:.2f}": {"confidence": confidence} for confidence in (0.9, CONFIDENCE, 0.99)},
    "search": {"search": True},
}


def draw(value: float, rollouts: int, rng: random.Random, before: Counts | None = None) -> Counts:
    before = before or Counts()
    won = sum(rng.random() < value for _ in range(rollouts))
    return Counts(before.successes + won, before.rollouts + rollouts)


def outcome(found: int | None, labels: Sequence[bool | None], truth: int) -> str:
    """What the labels of a solution say of its first error."""
    if truth >= 0 and labels[truth] and all(labels[:truth]):
        return "missed"
    if found is None:
        return "undecided"
    return "found" if found == truth else "early"


class Tally:
    """Of one method in one world."""

    def __init__(self) -> None:
        self.spent = self.solutions = 0
        self.labels, self.estimates = Counter[str](), Counter[str]()
        self.errors: dict[str, list[float]] = {"share": [], "mean": [], "covered": []}

    def add(self, solution: Solution, counts: Sequence[Counts], labels: Sequence[bool | None]) -> None:
        self.solutions += 1
        self.labels[outcome(first_wrong(labels), labels, solution.truth)] += 1
        for value, found in zip(solution.values[1:], counts[1:], strict=False):
            if (mean := posterior_mean(found)) is not None:
                interval = value_interval(found)
                self.errors["share"].append(found.value - value)
                self.errors["mean"].append(mean - value)
                self.errors["covered"].append(interval.low <= value <= interval.high)

    def figures(self, fixed: int) -> dict[str, float]:
        kinds = ("found", "missed", "early", "undecided")
        made = {"rollouts": round(self.spent / self.solutions, 1), "share": round(self.spent / fixed, 4)}
        made |= {kind: round(self.labels[kind] / self.solutions, 4) for kind in kinds}
        if self.estimates:
            made |= {f"estimate_{kind}": round(self.estimates[kind] / self.solutions, 4) for kind in kinds[:3]}
        for name, errors in self.errors.items():
            made["coverage" if name == "covered" else f"bias_{name}"] = round(sum(errors) / len(errors), 4)
        return made


def simulate(world: str, count: int, seed: int) -> dict[str, dict[str, float]]:
    tallies = {name: Tally() for name in ("dynamic", *ADAPTIVE)}
    for number in range(count):
        rng = random.Random(f"{world} {seed} {number}")
        solution = WORLDS[world](rng)
        last = [] if solution.final is None else [Counts(int(solution.final), 1, exact=True)]
        start = draw(solution.values[0], START, rng)
        k, sampled = dynamic_rollouts(start.value), len(solution.values) - 1
        fixed = [start, *(draw(value, k, rng) for value in solution.values[1:]), *last]
        by_ratio = step_labels([each.value for each in fixed[1:]], start=start.value)
        tallies["dynamic"].spent += k * sampled
        tallies["dynamic"].add(solution, fixed, [label.label for label in by_ratio])
        for name, options in ADAPTIVE.items():
            counts, tally = [start, *[Counts()] * sampled, *last], tallies[name]
            while (found := plan(counts, budget=k * sampled, given=START, **options)).prefix is not None:  # type: ignore[arg-type]
                counts[found.prefix] = draw(solution.values[found.prefix], found.rollouts, rng, counts[found.prefix])
            tally.spent += sum(each.rollouts for each in counts if not each.exact) - START
            tally.add(solution, counts, [label.label for label in found.labels])
            estimates = [label.estimate for label in found.labels]
            tally.estimates[outcome(first_wrong(estimates), estimates, solution.truth)] += 1
    return {name: tally.figures(tallies["dynamic"].spent) for name, tally in tallies.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="solutions of a world")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/rpe_budget.json")
    options = parser.parse_args()
    made: dict[str, dict[str, dict[str, float]]] = {}
    columns = ("share", "found", "missed", "early", "undecided", "estimate_found", "estimate_missed", "estimate_early")
    columns += ("bias_share", "bias_mean", "coverage")
    print(
        f"{'world':12} {'method':14}",
        *(f"{name.replace('estimate', 'est.').replace('_', ' '):>11}" for name in columns),
    )
    for world in options.worlds:
        made[world] = simulate(world, options.count, options.seed)
        for name, row in made[world].items():
            cells = (f"{row[column]:.1%}" if column in row else "" for column in columns)
            print(f"{world:12} {name:14}", *(f"{cell:>11}" for cell in cells), flush=True)
    if options.save:
        path = Path(__file__).parent / "results/rpe_budget.json"
        path.parent.mkdir(exist_ok=True)
        # Worlds that were not asked for keep the figures of an earlier run.
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(kept | made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made))


if __name__ == "__main__":
    main()
