"""Pure functions that turn the judgements of several solutions into one answer.

A *reward* is the log-odds that a solution is right, so its sigmoid is a score; None without a score. An *answer* is a
text, the same for equal answers; None for a solution without one, which is never chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from genprm.types import logit, sigmoid

LARGEST = 1000.0
"""Log-odds of a score of exactly 0 or 1, as JSON has no infinity."""


class Aggregate(StrEnum):
    """How the step scores of a solution become one score."""

    LAST = "last"
    MIN = "min"
    MEAN = "mean"
    PRODUCT = "product"
    SOLUTION = "solution"
    """The score of the whole solution, from judges that give one."""


def reward(
    scores: Sequence[float | None], how: Aggregate, log_odds: Sequence[float | None] | None = None
) -> float | None:
    """The reward of a solution from the scores of its steps.

    Args:
        scores: one per step, in [0, 1].
        how: any aggregate except `SOLUTION`.
        log_odds: log-odds of the same steps, if known; they distinguish scores that round to 0 or 1.

    Returns:
        Log-odds in [-`LARGEST`, `LARGEST`]; None without steps or when a step has no score.
    """
    known = [score for score in scores if score is not None]
    if not known or len(known) < len(scores):
        return None
    odds = [
        logit(score) if exact is None else exact
        for score, exact in zip(known, log_odds or [None] * len(known), strict=True)
    ]
    match how:
        case Aggregate.LAST:
            found = odds[-1]
        case Aggregate.MIN:
            found = min(odds)
        case Aggregate.MEAN:
            found = logit(math.fsum(known) / len(known))
        case Aggregate.PRODUCT:
            found = _log_odds_of(math.fsum(_log_sigmoid(one) for one in odds))
        case Aggregate.SOLUTION:
            raise ValueError("the score of a whole solution does not come from its steps")
    return clipped(found)


def clipped(log_odds: float) -> float:
    """Clips log-odds to [-`LARGEST`, `LARGEST`], as JSON has no infinity."""
    return max(-LARGEST, min(LARGEST, log_odds))


def pick_best(
    answers: Sequence[str | None], rewards: Sequence[float | None], copies: Sequence[int] | None = None
) -> int | None:
    """Index of the solution with the highest reward; ties go to the first. Solutions without a reward rank last."""
    del copies
    ranked = [(-math.inf if rewards[i] is None else rewards[i], -i) for i, a in enumerate(answers) if a is not None]
    return -max(ranked)[1] if ranked else None


def pick_majority(
    answers: Sequence[str | None], rewards: Sequence[float | None] = (), copies: Sequence[int] | None = None
) -> int | None:
    """Index of the first solution with the most frequent answer; ties go to the answer seen first.

    Args:
        answers: one per solution.
        rewards: not used.
        copies: samples that each solution represents; None means one each.
    """
    del rewards
    return _heaviest(answers, [float(one) for one in copies or [1] * len(answers)])


def pick_weighted(
    answers: Sequence[str | None], rewards: Sequence[float | None], copies: Sequence[int] | None = None
) -> int | None:
    """Index of the first solution with the largest sum of scores over equal answers, copies included.

    Args:
        answers: one per solution.
        rewards: a solution without one has weight 0.
        copies: samples that each solution represents; None means one each.
    """
    scores = [0.0 if one is None else sigmoid(one) for one in rewards]
    return _heaviest(answers, [one * count for one, count in zip(scores, copies or [1] * len(scores), strict=True)])


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4 ... up to n, and n itself."""
    return sorted({1 << power for power in range(n.bit_length()) if 1 << power <= n} | {n})


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of k solutions drawn without replacement from n is right (arXiv 2107.03374, eq. 1).

    Args:
        n: number of solutions, at least 1.
        correct: number of right ones.
        k: 1 to n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k!r} is undefined for {n!r} solutions of which {correct!r} are right")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def _heaviest(answers: Sequence[str | None], weights: Sequence[float]) -> int | None:
    totals: dict[str, list[float]] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals.setdefault(answer, []).append(weight)
    if not totals:
        return None
    return answers.index(max(totals, key=lambda answer: math.fsum(totals[answer])))


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def _log_odds_of(log_p: float) -> float:
    """log(p / (1 - p)) from log p."""
    return math.inf if log_p >= 0 else log_p - math.log(-math.expm1(log_p))
