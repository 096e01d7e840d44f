"""Fewer rollouts for the same labels: which prefix to roll out next, and when to stop. Pure.

A Monte Carlo value is a number of successes out of a number of rollouts. With a uniform prior it is Beta distributed,
so the probability that a step's ratio is above the threshold can be computed, and rollouts stop as soon as it is above
the confidence, or below one minus it. As a solution is of use up to its first wrong step, spans of steps are tested
before single ones: where the value at the end of a span is not below that at its beginning, all of its steps are taken
as right, and otherwise the span is halved. That assumes that a value which fell does not rise again within the span.

The plan depends on the counts alone, so that a run which was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from scipy import special

from genprm.rpe.labels import DEFAULT_THRESHOLDS, Method

BATCH = 8
"""Rollouts asked for at once."""
PROBE = 16
"""Rollouts at the end of a span before it is halved, if they have not decided about it."""
CONFIDENCE = 0.95
SHARE = 0.5
"""Of the rollouts that the fixed number would spend on a solution, those that may be spent at most."""
_NODES = (np.arange(64) + 0.5) / 64


@dataclass(frozen=True, slots=True)
class Counts:
    """Rollouts from one prefix, and how many of them reached the answer. Those whose outcome nobody knows count not."""

    successes: int = 0
    rollouts: int = 0
    exact: bool = False
    """Whether `successes / rollouts` is the value itself: after the last step there is nothing to roll out."""

    @property
    def value(self) -> float:
        """The Monte Carlo value, in [0, 1]; 0 without rollouts."""
        return self.successes / self.rollouts if self.rollouts else 0.0


class State(StrEnum):
    """What a label of an adaptive plan rests on."""

    DECIDED = "decided"
    """The step's own ratio, at the stated confidence."""
    INFERRED = "inferred"
    """The ratio over a span of steps, none of which was looked at by itself."""
    UNDECIDED = "undecided"
    """Neither way is certain enough and the budget is spent; there is no label."""
    AFTER = "after"
    """It comes after the first wrong or undecided step; there is no label."""


@dataclass(frozen=True, slots=True)
class PlannedLabel:
    """The label of a step, as far as it is known."""

    label: bool | None
    state: State
    probability: float | None = None
    """That the step is right, by its own ratio or by that of its span."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next: roll out from `prefix`, or stop when it is None."""

    prefix: int | None
    """Number of steps of the prefix; 0 is the problem alone."""
    labels: tuple[PlannedLabel, ...]
    """One a step; final when `prefix` is None."""


def plan(
    values: Sequence[Counts],
    *,
    budget: int,
    threshold: float = DEFAULT_THRESHOLDS[Method.RATIO],
    confidence: float = CONFIDENCE,
    search: bool = True,
    batch: int = BATCH,
) -> Plan:
    """Decides what to roll out next for a solution.

    Args:
        values: (steps + 1,) counts by the number of steps of the prefix: first those of the problem alone.
        budget: rollouts that may be spent on the prefixes with at least one step.
        threshold: of the ratio.
        confidence: probability from which a label is decided, in (0.5, 1).
        search: whether spans of steps may be decided at once; else every step is looked at.
        batch: rollouts that follow a plan.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must be above 0.5 and below 1, not {confidence!r}")
    if len(values) < 2:
        raise ValueError("a solution has at least one step")
    steps = len(values) - 1
    labels = [PlannedLabel(None, State.AFTER)] * steps
    left = budget - sum(value.rollouts for value in values[1:] if not value.exact)

    def ask(low: int, high: int) -> int | None:
        """The prefix that tells most about a ratio: the one of the two with fewer rollouts."""
        ends = [end for end in (high, low) if not values[end].exact]
        best = min(ends, key=lambda end: values[end].rollouts) if ends else None
        # What the problem alone costs is not this solution's: all solutions of the problem share it, up to a limit.
        free = best == 0 and values[0].rollouts < max(budget, 2 * batch)
        return best if best is not None and (free or left >= batch) else None

    def walk(low: int, high: int) -> tuple[bool, int | None]:
        """Labels the steps of a span; whether to go on behind it, and else what to roll out first (None: nothing)."""
        single = high - low == 1
        if values[high].rollouts == 0 and (wanted := ask(low, high)) is not None:
            return False, wanted
        p = probability(values[low], values[high], threshold)
        if p >= confidence and (single or not values[high].exact):
            state = State.DECIDED if single else State.INFERRED
            labels[low:high] = [PlannedLabel(True, state, p)] * (high - low)
            return True, None
        if single:
            if p <= 1 - confidence:
                labels[low] = PlannedLabel(False, State.DECIDED, p)
                return False, None
            wanted = ask(low, high)
            if wanted is None:
                labels[low] = PlannedLabel(None, State.UNDECIDED, p)
            return False, wanted
        if p > 1 - confidence and not values[high].exact and values[high].rollouts < PROBE and left >= batch:
            return False, high
        middle = (low + high) // 2
        more, wanted = walk(low, middle)
        return walk(middle, high) if more else (more, wanted)

    # The last step's value is its own answer, which says nothing about the steps before it: it is never part of a span.
    spans = [(0, steps - 1), (steps - 1, steps)] if search and steps > 1 else [(k, k + 1) for k in range(steps)]
    for low, high in spans:
        more, wanted = walk(low, high)
        if not more:
            return Plan(wanted, tuple(labels))
    return Plan(None, tuple(labels))


def probability(before: Counts, after: Counts, threshold: float) -> float:
    """The probability that the value after a step is at least `threshold` times the value before it.

    Both values have uniform priors and are independent. A value that is exact is taken as it is; a value before of
    exactly zero makes every step wrong, as in `step_labels`.
    """
    return _probability(
        (before.successes, before.rollouts, before.exact), (after.successes, after.rollouts, after.exact), threshold
    )


@lru_cache(maxsize=65536)
def _probability(before: tuple[int, int, bool], after: tuple[int, int, bool], threshold: float) -> float:
    won, tried, exact = before
    if exact:
        if won == 0:
            return 0.0
        limits = np.array([threshold * won / tried])
    else:
        # The expectation over the value before, at the middles of 64 equally likely pieces of its distribution.
        limits = threshold * special.betaincinv(won + 1, tried - won + 1, _NODES)
    won, tried, exact = after
    if exact:
        return float(np.mean(won / tried >= limits)) if won else 0.0
    return float(np.mean(special.betaincc(won + 1, tried - won + 1, np.minimum(limits, 1.0))))
