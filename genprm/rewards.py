"""Rewards from step scores that resist reward hacking. Pure functions that need only the standard library.

A policy trained only on a judge's scores learns to please the judge: its reward rises while its accuracy falls
(arXiv 2603.06621), and easy extra steps raise a sum or mean of step scores (PURE, arXiv 2504.15275). So:

* The answer comes first. Step scores count only among right answers, and are normalised only among them (PAPO,
arXiv 2603.26535). They never lift a wrong answer above a right one.
* A solution is as good as its worst step (PURE). An added step can lower the score, but not raise it.
* A solution that manipulates the judge (its tags, hidden characters, repeated steps) earns nothing.

`gated_reward` gives one number per solution, for trainers with their own normalisation. `gated_advantages` and
`step_credit` work on the group of solutions of one problem. `genprm.step_tokens` places step values on tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from genprm.search.voting import Aggregate

WEIGHT = 0.5
"""How much of a right answer's reward depends on its steps."""
CLIP = 2.0
"""The process part of an advantage is clipped at this many standard deviations. With a weight below 1, a right answer
stays above every wrong one: under GRPO's normalisation they are at least 2 apart."""
SMALLEST_SPREAD = 0.05
"""Lower bound of the spread of step scores: dividing by less would turn the judge's noise into reward."""


class Norm(StrEnum):
    """How the rewards of a group become advantages."""

    GRPO = "grpo"
    """Minus the group's mean, divided by its standard deviation (DeepSeekMath, arXiv 2402.03300, eq. 3)."""
    RLOO = "rloo"
    """Minus the mean of the others (arXiv 2402.14740)."""


def process_score(scores: Sequence[float | None], how: Aggregate = Aggregate.MIN) -> float | None:
    """One score in [0, 1] for the steps of a solution.

    Args:
        scores: one per step, in [0, 1].
        how: the lowest by default. The mean rises when easy steps are added, and the last step says nothing about the
            others: use these only for comparisons, not for training.

    Returns:
        None if a step has no score, or there are no steps.

    Raises:
        ValueError: a score is outside [0, 1], or `how` is not an aggregate of steps.
    """
    known = [score for score in scores if score is not None]
    if any(not 0 <= score <= 1 for score in known):
        raise ValueError(f"scores must lie in [0, 1]: {list(scores)!r}")
    if not known or len(known) < len(scores):
        return None
    match how:
        case Aggregate.MIN:
            return min(known)
        case Aggregate.MEAN:
            return math.fsum(known) / len(known)
        case Aggregate.PRODUCT:
            return math.prod(known)
        case Aggregate.LAST:
            return known[-1]
        case Aggregate.SOLUTION:
            raise ValueError("the score of a whole solution is not an aggregate of its steps: pass it as a single step")


def gated_reward(
    scores: Sequence[float | None],
    *,
    correct: bool | None,
    weight: float = WEIGHT,
    how: Aggregate = Aggregate.MIN,
    violation: object = None,
) -> float | None:
    """The reward of one solution, in [0, 1]: 0 for a wrong answer, `1 - weight` to 1 for a right one.

    Args:
        scores: of the steps; ignored when the answer is wrong, so such a solution need not be judged.
        correct: whether the answer is right; None if unknown.
        weight: share of the reward that depends on the steps, in [0, 1).
        how: see `process_score`.
        violation: the result of `genprm.guards.find_violation`. Anything but None counts as a wrong answer.

    Returns:
        None if the answer's correctness or a step's score is missing: the trainer should ignore the solution.

    Raises:
        ValueError: the weight or a score is out of range.
    """
    _check_weight(weight)
    if violation is not None or correct is False:
        return 0.0
    process = process_score(scores, how)
    if correct is None or process is None:
        return None
    return 1.0 - weight + weight * process


def gated_advantages(
    correct: Sequence[bool | None],
    process: Sequence[float | None],
    *,
    weight: float = WEIGHT,
    norm: Norm = Norm.GRPO,
) -> list[float]:
    """Advantages of the solutions of one problem: outcome over all, process only among right answers.

    Args:
        correct: whether each answer is right. None excludes a solution: its advantage is 0, and it is in no mean.
        process: the process score of each, in [0, 1]; ignored for wrong answers. None counts as average.
        weight: weight of the process part, in [0, 1).
        norm: how both parts are normalised.

    Returns:
        One number per solution. Every right answer is above every wrong one. If all answers of a group are right, or
        all
            wrong, the outcome part is 0.

    Raises:
        ValueError: the lists differ in length, or a number is out of range.
    """
    credit = step_credit([[score] for score in process], correct, weight=weight, norm=norm)
    return [a + c[0] for a, c in zip(outcome_advantages(correct, norm), credit, strict=True)]


def outcome_advantages(correct: Sequence[bool | None], norm: Norm = Norm.GRPO) -> list[float]:
    """Advantages from the answers alone; 0 if correctness is unknown."""
    known = [float(one) for one in correct if one is not None]
    count = len(known)
    if count < 2:
        return [0.0] * len(correct)
    mean = math.fsum(known) / count
    # The rewards are 0 and 1, so their variance is p (1 - p).
    spread = math.sqrt(mean * (1 - mean))
    divided = 1 / spread if spread > 0 else 0.0
    factor = count / (count - 1) if norm is Norm.RLOO else divided
    return [0.0 if one is None else (float(one) - mean) * factor for one in correct]


def step_credit(
    scores: Sequence[Sequence[float | None]],
    correct: Sequence[bool | None],
    *,
    weight: float = WEIGHT,
    norm: Norm = Norm.GRPO,
) -> list[list[float]]:
    """Advantages of the steps of each solution of one problem, on top of the outcome advantage.

    A solution's process advantage is its lowest step score minus the mean of the lowest scores of the other right
        answers. Praise is shared: a positive advantage goes to every step. Blame is placed: a negative one goes to the
        steps up to the worst one, and later steps get the part given by the minimum of the remaining steps (the return
        of PURE's minimum form, arXiv 2504.15275), which is never positive. So adding a step earns nothing.

    Args:
        scores: [solution][step], in [0, 1]. A solution with a missing score gets nothing, and is in no mean.
        correct: whether each answer is right; steps of other solutions get nothing.
        weight: in [0, 1).
        norm: `GRPO` divides by the spread of the lowest scores and clips; `RLOO` does neither.

    Returns:
        [solution][step]; all 0 if all right answers score alike, or there is only one.

    Raises:
        ValueError: the lists differ in length, or a number is out of range.
    """
    _check_weight(weight)
    if len(scores) != len(correct):
        raise ValueError(f"{len(scores)} solutions with scores, and {len(correct)} answers")
    lowest = [process_score(steps) if right else None for steps, right in zip(scores, correct, strict=True)]
    known = [score for score in lowest if score is not None]
    if len(known) < 2:
        return [[0.0] * len(steps) for steps in scores]
    mean = math.fsum(known) / len(known)
    scale = 1.0
    if norm is Norm.GRPO:
        variance = math.fsum((score - mean) ** 2 for score in known) / len(known)
        scale = max(math.sqrt(variance), SMALLEST_SPREAD)
    credit: list[list[float]] = []
    for steps, low in zip(scores, lowest, strict=True):
        if low is None:
            credit.append([0.0] * len(steps))
            continue
        others = (mean * len(known) - low) / (len(known) - 1)
        top = max(low - others, 0.0)
        # Rounding must not create a difference between equal scores.
        parts = [min(follow - others, top) / scale for follow in _lowest_from_here([s for s in steps if s is not None])]
        parts = [0.0 if abs(part) < 1e-9 else part for part in parts]
        if norm is Norm.GRPO:
            parts = [max(-CLIP, min(CLIP, part)) for part in parts]
        credit.append([weight * part for part in parts])
    return credit


def step_advantages(
    scores: Sequence[Sequence[float | None]],
    correct: Sequence[bool | None],
    *,
    weight: float = WEIGHT,
    norm: Norm = Norm.GRPO,
) -> list[list[float]]:
    """The advantage of every step of the solutions of one problem: the outcome's plus `step_credit`.

    When all steps score alike, these are the advantages of GRPO (or RLOO) on the answers alone.
    """
    outcome = outcome_advantages(correct, norm)
    credit = step_credit(scores, correct, weight=weight, norm=norm)
    return [[a + c for c in steps] for a, steps in zip(outcome, credit, strict=True)]


def min_form(scores: Sequence[float], temperature: float = 0.1) -> list[float]:
    """Step rewards whose sum approximates the lowest score, for trainers that sum the rewards of tokens.

    Each score is weighted by a softmax over the negative scores (PURE, arXiv 2504.15275, section 4).

    Args:
        scores: one per step, in [0, 1].
        temperature: above 0. The smaller it is, the closer the sum is to the minimum; the sum never exceeds the mean.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature!r}")
    if not scores:
        return []
    low = min(scores)
    weights = [math.exp((low - score) / temperature) for score in scores]
    total = math.fsum(weights)
    return [score * weight / total for score, weight in zip(scores, weights, strict=True)]


def overlong_penalty(length: int, limit: int, margin: int) -> float:
    """Penalty of a long answer: 0 up to `limit - margin`, then falling to -1 at `limit`.

    The soft overlong punishment of DAPO (arXiv 2503.14476, eq. 13).

    Args:
        length: tokens of the answer.
        limit: longest answer.
        margin: tokens before the limit at which the penalty starts; 0 for a hard limit.
    """
    if not 0 <= margin <= limit:
        raise ValueError(f"margin must be between 0 and the limit {limit!r}, not {margin!r}")
    if length <= limit - margin:
        return 0.0
    return -1.0 if length >= limit else -(length - (limit - margin)) / margin


def _lowest_from_here(scores: Sequence[float]) -> list[float]:
    """For every step, the lowest score of it and the following steps."""
    lowest: list[float] = []
    for score in reversed(scores):
        lowest.append(min(score, lowest[-1]) if lowest else score)
    return lowest[::-1]


def _check_weight(weight: float) -> None:
    if not 0 <= weight < 1:
        raise ValueError(f"weight must be at least 0 and below 1, not {weight!r}: at 1 the answer would not count")
