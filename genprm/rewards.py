"""Rewards from step scores that a policy cannot farm. Pure functions; only the standard library is needed.

A policy that is trained on a judge's scores alone learns to please the judge: its reward rises while its accuracy falls
(arXiv 2603.06621), and a sum or a mean of step scores is raised by adding easy steps (PURE, arXiv 2504.15275). So:

* The answer comes first. Step scores count among right answers only, and are normalised among those alone (PAPO,
  arXiv 2603.26535). They never lift a wrong answer above a right one.
* A solution is as good as its worst step (PURE). A step that is added can lower the score; it cannot raise it.
* A solution that is no honest text for the judge (its tags, hidden characters, repeated steps) earns nothing.

`gated_reward` gives one number a solution, for trainers that normalise by themselves. `gated_advantages` and
`step_credit` work on the group of solutions of one problem. `genprm.step_text` places step values on tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from genprm.search.voting import Aggregate

WEIGHT = 0.5
"""How much of a right answer's reward depends on its steps."""
CLIP = 2.0
"""Most standard deviations that the process part of an advantage counts. With a weight below 1, a right answer stays
above every wrong one: under GRPO's normalisation the two are at least 2 apart."""
SMALLEST_SPREAD = 0.05
"""Step scores closer than this are not told apart: dividing by their spread would make reward of a judge's noise."""


class Norm(StrEnum):
    """How the rewards of a group become advantages."""

    GRPO = "grpo"
    """Less the group's mean, over its standard deviation (DeepSeekMath, arXiv 2402.03300, eq. 3)."""
    RLOO = "rloo"
    """Less the mean of the others, undivided (arXiv 2402.14740)."""


def process_score(scores: Sequence[float | None], how: Aggregate = Aggregate.MIN) -> float | None:
    """One score in [0, 1] for the steps of a solution.

    Args:
        scores: one a step, in [0, 1].
        how: the lowest by default. The mean rises when easy steps are added, and the last step says nothing of the
            others: take those for comparisons, not for training.

    Returns:
        None where a step has no score, or there is no step.

    Raises:
        ValueError: a score lies outside [0, 1], or `how` needs more than steps.
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
            raise ValueError("the score of a whole solution is not made of its steps: pass it as a single step")


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
        scores: of the steps. Not looked at when the answer is wrong: such a solution need not be judged.
        correct: whether the answer is right; None where nobody knows.
        weight: share of the reward that depends on the steps, in [0, 1).
        how: see `process_score`.
        violation: what `genprm.guards.find_violation` found. Anything but None earns as little as a wrong answer.

    Returns:
        None where the answer's correctness or a step's score is missing: the trainer should leave the solution out.

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
    """Advantages of the solutions of one problem: the outcome over all, the process among right answers alone.

    Args:
        correct: whether each answer is right. None leaves a solution out: its advantage is 0, and it is in no mean.
        process: the process score of each, in [0, 1]; of wrong answers it is not looked at. None counts as average.
        weight: of the process part, in [0, 1).
        norm: how both parts are normalised.

    Returns:
        One number a solution. Every right answer is above every wrong one. In a group whose answers are all right, or
        all wrong, the outcome part is 0.

    Raises:
        ValueError: the lists differ in length, or a number is out of range.
    """
    credit = step_credit([[score] for score in process], correct, weight=weight, norm=norm)
    return [a + c[0] for a, c in zip(outcome_advantages(correct, norm), credit, strict=True)]


def outcome_advantages(correct: Sequence[bool | None], norm: Norm = Norm.GRPO) -> list[float]:
    """Advantages by the answers alone; 0 for a solution of which nobody knows."""
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
    """What the steps of each solution of one problem get on top of the solution's outcome advantage.

    A solution's process advantage is its lowest step score less the mean of the lowest scores of the other right
    answers. Praise is shared: above that mean, every step gets the same. Blame is placed: below it, the steps up to the
    worst one get it, and later ones get what the minimum of those that still follow leaves of it (the return of PURE's
    minimum form, arXiv 2504.15275), which is never more than nothing. So a step that is added earns nothing by itself.

    Args:
        scores: [solution][step], in [0, 1]. A solution in which a step has no score gets nothing, and is in no mean.
        correct: whether each answer is right; steps of the others get nothing.
        weight: in [0, 1).
        norm: `GRPO` divides by the spread of the lowest scores and clips; `RLOO` takes them as they are.

    Returns:
        [solution][step]; all 0 where all right answers score alike, or there is only one.

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
        # Rounding must not make a difference of equal scores.
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
    """The advantage of every step of the solutions of one problem: of its outcome, and `step_credit`.

    When all steps score alike, they are the advantages of GRPO (or RLOO) on the answers alone.
    """
    outcome = outcome_advantages(correct, norm)
    credit = step_credit(scores, correct, weight=weight, norm=norm)
    return [[a + c for c in steps] for a, steps in zip(outcome, credit, strict=True)]


def min_form(scores: Sequence[float], temperature: float = 0.1) -> list[float]:
    """Step rewards whose sum is about the lowest score, for trainers that add up the rewards of tokens.

    Each score is weighed by a softmax over the negative scores (PURE, arXiv 2504.15275, section 4).

    Args:
        scores: one a step, in [0, 1].
        temperature: above 0. The smaller, the closer the sum is to the minimum; it never exceeds the mean.
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
    """What is taken off the reward of a long answer: 0 up to `limit - margin`, then falling to -1 at `limit`.

    The soft overlong punishment of DAPO (arXiv 2503.14476, eq. 13).

    Args:
        length: tokens of the answer.
        limit: longest answer.
        margin: tokens before the limit from which on it counts; 0 for a hard limit.
    """
    if not 0 <= margin <= limit:
        raise ValueError(f"margin must lie between 0 and the limit {limit!r}, not {margin!r}")
    if length <= limit - margin:
        return 0.0
    return -1.0 if length >= limit else -(length - (limit - margin)) / margin


def _lowest_from_here(scores: Sequence[float]) -> list[float]:
    """For every step the lowest score of it and of those that follow."""
    lowest: list[float] = []
    for score in reversed(scores):
        lowest.append(min(score, lowest[-1]) if lowest else score)
    return lowest[::-1]


def _check_weight(weight: float) -> None:
    if not 0 <= weight < 1:
        raise ValueError(f"weight must be at least 0 and below 1, not {weight!r}: at 1 the answer would not count")
