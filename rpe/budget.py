"""Adaptive budgets: which prefix to roll out next, and when to stop. Pure.

Every step gets its own probability of being right (`genprm.rpe.posterior`). A step is decided when this is above the
confidence or below one minus it. Rollouts go to the steps up to the first one that looks wrong, always to the prefix
with the fewest rollouts next to an undecided step, until all are decided or the budget is spent. Rollouts saved on
clear steps go to the others, and steps after the first wrong one cost nothing.

With `search`, spans of steps are tested before single steps: if the value did not fall over a span, all its steps are
labelled right, otherwise the span is halved. This is several times cheaper, and finds errors after which the answer is
rarely reached. It misses errors that lower the value less than the right steps around them raise it.

A plan depends only on the counts, so an interrupted run continues as if it had not been interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from genprm.rpe.labels import CONFIDENCE, DEFAULT_THRESHOLDS, Method
from genprm.rpe.posterior import Counts, probability, step_probabilities

FIRST = 8
"""Rollouts of the first request from a prefix."""
BATCH = 4
"""Rollouts of a further request."""
PROBE = 16
"""Rollouts after a step that looks wrong before later steps are left alone; in a search, before a span is halved."""


class State(StrEnum):
    """How a label of an adaptive plan was decided."""

    DECIDED = "decided"
    """By the step's own ratio, at the requested confidence."""
    INFERRED = "inferred"
    """By the ratio over a span of steps, which were not tested one by one."""
    UNDECIDED = "undecided"
    """Not decided within the budget; there is no label, but an uncertain estimate if there are rollouts."""
    AFTER = "after"
    """After the first wrong or undecided step; there is no label."""


@dataclass(frozen=True, slots=True)
class PlannedLabel:
    """The label of a step so far."""

    label: bool | None
    state: State
    probability: float | None = None
    """Posterior probability that the step is right, by its own ratio or that of its span."""
    estimate: bool | None = None
    """The label or, if undecided, whether the ratio of the two shares is at least the threshold. None after the first
        step that is estimated wrong, and without rollouts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next: roll out from `prefix`, or stop when it is None."""

    prefix: int | None
    """Number of steps of the prefix; 0 is the problem alone."""
    rollouts: int
    """How many to make; 0 when there is nothing to do."""
    labels: tuple[PlannedLabel, ...]
    """One per step; final when `prefix` is None."""


def plan(
    values: Sequence[Counts],
    *,
    budget: int,
    given: int = 0,
    threshold: float = DEFAULT_THRESHOLDS[Method.RATIO],
    confidence: float = CONFIDENCE,
    search: bool = False,
) -> Plan:
    """Decides which prefix of a solution to roll out next.

    Args:
        values: (steps + 1,) counts by the number of steps of the prefix; the first is the problem alone.
        budget: most rollouts for all prefixes together, beyond `given`.
        given: existing rollouts of the problem alone, which are not charged.
        threshold: least ratio of a right step.
        confidence: probability from which a label is decided, in (0.5, 1).
        search: whether spans of steps may be decided at once.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must be above 0.5 and below 1, not {confidence!r}")
    if threshold <= 0:
        raise ValueError(f"the threshold of a ratio must be above 0, not {threshold!r}")
    if len(values) < 2:
        raise ValueError("a solution has at least one step")
    state = _State(values, budget + given, threshold, confidence)
    wanted, labels = state.search() if search else state.every_step()
    return Plan(wanted, state.request(wanted) if wanted is not None else 0, _with_estimates(labels, values, threshold))


class _State:
    """One solution's counts, and the rules of a plan."""

    def __init__(self, values: Sequence[Counts], budget: int, threshold: float, confidence: float) -> None:
        self.values, self.threshold, self.confidence = values, threshold, confidence
        self.steps = len(values) - 1
        self.left = budget - sum(value.rollouts for value in values if not value.exact)

    def request(self, prefix: int) -> int:
        return max(BATCH, FIRST - self.values[prefix].rollouts)

    def affordable(self, prefix: int) -> bool:
        return not self.values[prefix].exact and self.left >= self.request(prefix)

    def decided(self, p: float) -> bool | None:
        return True if p >= self.confidence else False if p <= 1 - self.confidence else None

    def every_step(self) -> tuple[int | None, list[PlannedLabel]]:
        """What to roll out next, and the labels, when every step is tested separately."""
        found = step_probabilities(self.values, self.threshold)
        end = next((index + 1 for index, p in enumerate(found) if self.looks_wrong(index, p)), self.steps)
        labels = [PlannedLabel(None, State.AFTER)] * self.steps
        for index, p in enumerate(found[:end]):
            label = self.decided(p)
            labels[index] = PlannedLabel(label, State.UNDECIDED if label is None else State.DECIDED, p)
            if label is not True:
                break
        else:
            if len(found) < end:
                labels[len(found)] = PlannedLabel(None, State.UNDECIDED)
        if len(found) < end:
            unseen = next(length for length, value in enumerate(self.values) if not value.rollouts)
            return unseen if self.affordable(unseen) else None, labels
        opened = [index for index, p in enumerate(found[:end]) if self.decided(p) is None]
        ends = {length for index in opened for length in (index, index + 1) if self.affordable(length)}
        return min(ends, key=lambda length: (self.values[length].rollouts, length), default=None), labels

    def looks_wrong(self, index: int, p: float) -> bool:
        after = self.values[index + 1]
        return self.decided(p) is False or (p < 0.5 and (after.exact or after.rollouts >= PROBE))

    def search(self) -> tuple[int | None, list[PlannedLabel]]:
        """What to roll out next, and the labels, when spans of steps may be decided at once."""
        labels = [PlannedLabel(None, State.AFTER)] * self.steps
        # The last value is the solution's own answer. It says nothing about earlier steps, so no span contains it.
        spans = [(0, self.steps - 1), (self.steps - 1, self.steps)] if self.steps > 1 else [(0, 1)]
        for low, high in spans:
            more, wanted = self.walk(low, high, labels)
            if not more:
                return wanted, labels
        return None, labels

    def walk(self, low: int, high: int, labels: list[PlannedLabel]) -> tuple[bool, int | None]:
        """Labels the steps of a span. Returns whether to continue after it, and else the prefix to roll out."""
        single = high - low == 1
        end = self.values[high]
        wanted = min(filter(self.affordable, (high, low)), key=lambda at: self.values[at].rollouts, default=None)
        if end.rollouts == 0 and wanted is not None:
            return False, wanted
        p = probability(self.values[low], end, self.threshold)
        if p >= self.confidence and (single or not end.exact):
            state = State.DECIDED if single else State.INFERRED
            labels[low:high] = [PlannedLabel(True, state, p)] * (high - low)
            return True, None
        if single:
            if p <= 1 - self.confidence:
                labels[low] = PlannedLabel(False, State.DECIDED, p)
                return False, None
            if wanted is None:
                labels[low] = PlannedLabel(None, State.UNDECIDED, p)
            return False, wanted
        if p > 1 - self.confidence and end.rollouts < PROBE and self.affordable(high):
            return False, high
        middle = (low + high) // 2
        more, wanted = self.walk(low, middle, labels)
        return self.walk(middle, high, labels) if more else (more, wanted)


def _with_estimates(
    labels: Sequence[PlannedLabel], values: Sequence[Counts], threshold: float
) -> tuple[PlannedLabel, ...]:
    made: list[PlannedLabel] = []
    going = True
    for index, label in enumerate(labels):
        before, after = values[index], values[index + 1]
        estimate = label.label
        if estimate is None and before.rollouts and after.rollouts:
            estimate = after.value > 0 and after.value >= threshold * before.value
        going = going and estimate is not None
        made.append(replace(label, estimate=estimate if going else None))
        going = going and estimate is True
    return tuple(made)
