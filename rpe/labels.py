"""Step labels from Monte Carlo values (GenPRM, arXiv 2504.00891, section 3.2). Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    """How a step's progress is measured."""

    RATIO = "ratio"
    """MC after the step over MC before it (eq. 10): relative progress estimation."""
    DIFFERENCE = "difference"
    """MC after the step minus MC before it; thresholds are negative."""
    HARD = "hard"
    """MC after the step alone: right when any rollout reached the answer."""


CONFIDENCE = 0.94
"""Posterior probability at which an adaptive label is decided: the highest at which an error that multiplies the value
by 0.6 costs under 60 % of the paper's number of rollouts, in `benchmarks/rpe_budget.py`."""
DEFAULT_THRESHOLDS = {Method.RATIO: 0.8, Method.DIFFERENCE: -0.3, Method.HARD: 0.0}
"""The paper's threshold for the ratio, a good one for the difference (table 4), and zero for hard labels."""


def dynamic_rollouts(pass_at_1: float) -> int:
    """Rollouts per step by the problem's difficulty (eq. 9): 128 for Pass@1 below 0.1, 64 below 0.9, else 32.

    Raises:
        ValueError: `pass_at_1` is not in [0, 1].
    """
    if not 0.0 <= pass_at_1 <= 1.0:
        raise ValueError(f"Pass@1 must be between 0 and 1, not {pass_at_1!r}")
    return 128 if pass_at_1 < 0.1 else 64 if pass_at_1 < 0.9 else 32


@dataclass(frozen=True, slots=True)
class StepLabel:
    """The label of one step."""

    label: bool
    """Whether the step is right."""
    progress: float
    """Compared with the threshold: a ratio in [0, inf), a difference in [-1, 1], or the Monte Carlo value."""
    standard_error: float | None = None
    """Standard error of `progress`, to first order, for a number of rollouts that was fixed in advance. None if that
        number is unknown or the error is undefined."""
    rollouts: int | None = None
    """Rollouts behind the value after the step; None if unknown, or if the value is exact."""


def step_labels(
    mc: Sequence[float],
    *,
    start: float,
    method: Method | str = Method.RATIO,
    threshold: float | None = None,
    rollouts: Sequence[int | None] | None = None,
    start_rollouts: int | None = None,
) -> list[StepLabel]:
    """Labels every step of a solution.

    After the first step whose value is zero, all later values count as zero, as in the paper: later steps are not right
    because the completer recovers from them. 0/0 is taken as zero: the prefix was already lost, so the step made no
    progress (the paper does not define this case).

    Args:
        mc: (steps,) Monte Carlo value after each step, in [0, 1].
        start: the value before the first step: Pass@1 of the problem, in [0, 1].
        method: how progress is measured.
        threshold: a step is right when its progress is at least this; for hard labels, when its value is above it. By
            default 0.8, -0.3 and 0 for the three methods.
        rollouts: (steps,) number of rollouts behind each value of `mc`, used for standard errors; None for a value that
            is exact, as that after the last step.
        start_rollouts: the same for `start`.

    Returns:
        One label per step.

    Raises:
        ValueError: a value is out of range, or the lengths differ.
    """
    method = Method(method)
    limit = DEFAULT_THRESHOLDS[method] if threshold is None else threshold
    for name, value in (("start", start), *((f"mc[{index}]", value) for index, value in enumerate(mc))):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, not {value!r}")
    if rollouts is not None and len(rollouts) != len(mc):
        raise ValueError(f"{len(rollouts)} numbers of rollouts for {len(mc)} steps")
    if any(
        count is not None and count < 1
        for count in (*(rollouts or ()), *(() if start_rollouts is None else (start_rollouts,)))
    ):
        raise ValueError(f"rollouts must be at least 1: {rollouts!r}, {start_rollouts!r}")
    labels: list[StepLabel] = []
    before, before_count = start, start_rollouts
    for index, value in enumerate(mc):
        after = 0.0 if index and before == 0.0 else value
        count = rollouts[index] if rollouts is not None else None
        match method:
            case Method.RATIO:
                progress = after / before if before > 0.0 else 0.0
                right = progress >= limit
            case Method.DIFFERENCE:
                progress = after - before
                right = progress >= limit
            case Method.HARD:
                progress = after
                right = after > limit
        error = _standard_error(method, before, after, before_count, count) if rollouts is not None else None
        labels.append(StepLabel(right, progress, error, count))
        before, before_count = after, count
    return labels


def _standard_error(
    method: Method, before: float, after: float, before_count: int | None, after_count: int | None
) -> float | None:
    """Standard error by the delta method, treating the two values as independent binomial means."""
    after_variance = _variance(after, after_count)
    if method is Method.HARD:
        return math.sqrt(after_variance)
    if before_count is None:
        return None
    before_variance = _variance(before, before_count)
    if method is Method.DIFFERENCE:
        return math.sqrt(after_variance + before_variance)
    if before == 0.0:
        return None
    return math.sqrt(after_variance / before**2 + before_variance * after**2 / before**4)


def _variance(value: float, rollouts: int | None) -> float:
    """Variance of a binomial mean, at its posterior mean, so that it is not zero at 0 or 1; zero for an exact value."""
    if rollouts is None:
        return 0.0
    mean = (value * rollouts + 1) / (rollouts + 2)
    return mean * (1.0 - mean) / rollouts


def first_wrong(labels: Sequence[bool | None]) -> int | None:
    """The 0-based index of the first wrong step; -1 when all are right; None when an unknown label comes before."""
    for index, label in enumerate(labels):
        if label is None:
            return None
        if not label:
            return index
    return -1
