"""Adaptive budgets: which prefix to roll out next, and when to stop. Pure.

The number of successes among the rollouts of a prefix gives its value a Beta posterior (uniform prior), from which
follows the probability that a step's ratio is above the threshold. Rollouts stop when this probability is above the
confidence or below one minus it. Spans of steps are tested before single steps: if the value did not fall over a span,
all its steps are labelled right, otherwise the span is halved. This assumes that a value that fell does not rise again
within the span.

A plan depends on the counts alone, so that an interrupted run continues as if it had not been interrupted.
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
"""Rollouts per request."""
PROBE = 16
"""Rollouts at the end of a span before it is halved, unless they decide it."""
CONFIDENCE = 0.95
SHARE = 0.5
"""Most rollouts for a solution, as a share of what the fixed number would spend."""
_NODES = (np.arange(64) + 0.5) / 64


@dataclass(frozen=True, slots=True)
class Counts:
    """Rollouts from one prefix, and how many of them reached the answer. Unknown outcomes are excluded."""

    successes: int = 0
    rollouts: int = 0
    exact: bool = False
    """Whether `successes / rollouts` is the exact value: after the last step there is nothing to roll out."""

    @property
    def value(self) -> float:
        """The Monte Carlo value, in [0, 1]; 0 without rollouts."""
        return self.successes / self.rollouts if self.rollouts else 0.0


class State(StrEnum):
    """How a label of an adaptive plan was decided."""

    DECIDED = "decided"
    """By the step's own ratio, at the requested confidence."""
    INFERRED = "inferred"
    """By the ratio over a span of steps, which were not tested one by one."""
    UNDECIDED = "undecided"
    """Not decided within the budget; there is no label."""
    AFTER = "after"
    """After the first wrong or undecided step; there is no label."""


@dataclass(frozen=True, slots=True)
class PlannedLabel:
    """The label of a step so far."""

    label: bool | None
    state: State
    probability: float | None = None
    """Posterior probability that the step is right, by its own ratio or that of its span."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next: roll out from `prefix`, or stop when it is None."""

    prefix: int | None
    """Number of steps of the prefix; 0 is the problem alone."""
    labels: tuple[PlannedLabel, ...]
    """One per step; final when `prefix` is None."""


def plan(
    values: Sequence[Counts],
    *,
    budget: int,
    threshold: float = DEFAULT_THRESHOLDS[Method.RATIO],
    confidence: float = CONFIDENCE,
    search: bool = True,
    batch: int = BATCH,
) -> Plan:
    """Decides which prefix of a solution to roll out next.

    Args:
        values: (steps + 1,) counts by the number of steps of the prefix; the first is the problem alone.
        budget: most rollouts for the prefixes with at least one step.
        threshold: least ratio of a right step.
        confidence: probability from which a label is decided, in (0.5, 1).
        search: whether spans of steps may be decided at once; otherwise every step is tested.
        batch: rollouts per request.

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
        """The prefix to roll out for a ratio: the one of the two with fewer rollouts."""
        ends = [end for end in (high, low) if not values[end].exact]
        best = min(ends, key=lambda end: values[end].rollouts) if ends else None
        # The rollouts of the problem alone are shared by all its solutions: up to a limit they are not charged.
        free = best == 0 and values[0].rollouts < max(budget, 2 * batch)
        return best if best is not None and (free or left >= batch) else None

    def walk(low: int, high: int) -> tuple[bool, int | None]:
        """Labels the steps of a span. Returns whether to go on after it, else the prefix to roll out."""
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

    # The last value is the solution's own answer. It says nothing about earlier steps, so no span contains it.
    spans = [(0, steps - 1), (steps - 1, steps)] if search and steps > 1 else [(k, k + 1) for k in range(steps)]
    for low, high in spans:
        more, wanted = walk(low, high)
        if not more:
            return Plan(wanted, tuple(labels))
    return Plan(None, tuple(labels))


def probability(before: Counts, after: Counts, threshold: float) -> float:
    """Returns the probability that the value after a step is at least `threshold` times the value before it.

    Both values have independent uniform priors; exact values are taken as they are. If the value before is exactly
    zero, every step is wrong, as in `step_labels`.
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
        # The expectation over the value before, at the midpoints of 64 equally likely intervals of its distribution.
        limits = threshold * special.betaincinv(won + 1, tried - won + 1, _NODES)
    won, tried, exact = after
    if exact:
        return float(np.mean(won / tried >= limits)) if won else 0.0
    return float(np.mean(special.betaincc(won + 1, tried - won + 1, np.minimum(limits, 1.0))))
