"""The adaptive budget against the paper's dynamic number of rollouts, by simulation.

Two worlds of solutions whose true values are known:

* `uniform`: one step, with the values before and after it drawn uniformly from [0, 1]: the whole range.
* `solutions`: 2 to 8 steps. A right step divides the value by the chance of a right step, a wrong one multiplies it by
  something between 0 and 0.5, and most often by 0. Half of the solutions have a wrong step.

Labels are compared with those of 512 rollouts a value, where these are decided (posterior beyond 0.95); a label that
stays undecided is counted apart.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.rpe.budget import SHARE, Counts, plan, probability
from genprm.rpe.labels import dynamic_rollouts, step_labels

REFERENCE = 512
START = 32
"""Rollouts of the problem alone that both ways get from sampling solutions."""


def draw(value: float, rollouts: int, rng: random.Random, before: Counts | None = None) -> Counts:
    before = before or Counts()
    won = sum(rng.random() < value for _ in range(rollouts))
    return Counts(before.successes + won, before.rollouts + rollouts)


def uniform(rng: random.Random) -> tuple[list[float], bool | None]:
    return [rng.random(), rng.random()], None


def solution(rng: random.Random) -> tuple[list[float], bool | None]:
    steps, step = rng.randint(2, 8), rng.uniform(0.75, 0.98)
    value = min(step**steps, 1.0)
    values, wrong = [value], rng.randrange(steps) if rng.random() < 0.5 else -1
    for index in range(steps):
        factor = rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 0.5)]) if index == wrong else 1 / step
        value = min(1.0, value * factor)
        values.append(value)
    return values[:-1], values[-1] > 0 and wrong == -1


def values_of(world: str, rng: random.Random) -> tuple[list[float], bool | None]:
    return uniform(rng) if world == "uniform" else solution(rng)


def reference_labels(values: Sequence[float], final: bool | None, rng: random.Random) -> list[bool | None]:
    """Of each step: right, wrong, or None where even the reference is not sure."""
    counts = [draw(value, REFERENCE, rng) for value in values]
    if final is not None:
        counts.append(Counts(int(final), 1, exact=True))
    found: list[bool | None] = []
    dead = False
    for before, after in pairwise(counts):
        p = 0.0 if dead else probability(before, after, 0.8)
        dead = dead or after.successes == 0
        found.append(True if p > 0.95 else False if p < 0.05 else None)
    return found


def simulate(world: str, count: int, confidence: float, seed: int) -> dict[str, float]:
    rng = random.Random(f"{world} {seed}")
    spent = fixed = decided = undecided = agree = compared = fixed_agree = fixed_compared = 0
    for _ in range(count):
        values, final = values_of(world, rng)
        reference = reference_labels(values, final, rng)
        steps = len(reference)
        sampled = len(values) - 1  # the last step's value is its own answer
        counts = [draw(values[0], START, rng), *[Counts() for _ in range(steps)]]
        if final is not None:
            counts[-1] = Counts(int(final), 1, exact=True)
        k = dynamic_rollouts(counts[0].value)
        while (found := plan(counts, budget=int(SHARE * k * sampled), confidence=confidence)).prefix is not None:
            counts[found.prefix] = draw(values[found.prefix], 8, rng, counts[found.prefix])
        # What is spent on the problem alone beyond its first samples is charged here in full, although the solutions
        # of one problem share it.
        spent += sum(c.rollouts for c in counts if not c.exact) - START
        fixed += k * sampled
        mc = [draw(value, k, rng).value for value in values[1:]] + ([] if final is None else [float(final)])
        by_ratio = step_labels(mc, start=counts[0].value)
        stop = next((i for i, label in enumerate(reference) if label is False), steps - 1)
        for index in range(stop + 1):
            if reference[index] is None:
                continue
            fixed_compared += 1
            fixed_agree += by_ratio[index].label == reference[index]
            label = found.labels[index].label
            if label is None:
                undecided += 1
            else:
                decided += 1
                compared += 1
                agree += label == reference[index]
    return {
        "solutions": count,
        "rollouts": round(spent / count, 2),
        "dynamic_rollouts": round(fixed / count, 2),
        "share": round(spent / fixed, 4),
        "agreement": round(agree / compared, 4),
        "compared": compared,
        "undecided": round(undecided / (undecided + decided), 4),
        "dynamic_agreement": round(fixed_agree / fixed_compared, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    made = {
        world: {f"{c:.2f}": simulate(world, options.count, c, options.seed) for c in (0.9, 0.95, 0.99)}
        for world in ("uniform", "solutions")
    }
    heads = ("confidence", "rollouts", "dynamic K", "share", "agrees", "undecided", "K agrees")
    print(f"{'world':10}", *(f"{head:>10}" for head in heads))
    for world, rows in made.items():
        for confidence, row in rows.items():
            cells = (f"{row['rollouts']:.1f}", f"{row['dynamic_rollouts']:.1f}", f"{row['share']:.1%}")
            cells += (f"{row['agreement']:.2%}", f"{row['undecided']:.1%}", f"{row['dynamic_agreement']:.1%}")
            print(f"{world:10}", f"{confidence:>10}", *(f"{cell:>10}" for cell in cells))
    if options.save:
        path = Path(__file__).parent / "results/rpe_budget.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made))


if __name__ == "__main__":
    main()
