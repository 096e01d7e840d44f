"""Adaptive computation: when a verdict is settled, and which steps need code. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from genprm.config import CERTAINTY, Until
from genprm.prms.base import PRMError


@dataclass(frozen=True, slots=True)
class Spending:
    """When a judge stops."""

    until: Until = Until.END
    """How far a solution is judged. With `FIRST_ERROR`, later steps have no score, with the reason."""
    confidence: float | None = None
    """None takes every vote on every step. A number in (0, 1] stops voting on a step once its verdict is settled with
    that confidence (1: once the remaining votes cannot flip it)."""
    certainty: float = CERTAINTY
    """For `Mode.AUTO`: see `needs_code`."""

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence <= 1:
            raise PRMError(f"confidence must be above 0 and at most 1, not {self.confidence!r}")
        if not 0.5 <= self.certainty <= 1:
            raise PRMError(f"certainty must be between 0.5 and 1, not {self.certainty!r}")


WAVE = 2
"""Votes taken at once while more may be needed."""

_COMPUTES = re.compile(
    r"\d\s*(?:[-+*/^×÷·%=<>]|\\(?:times|div|cdot|frac|sqrt|pm|equiv|approx|le|ge)\b|\bx\b)|[=^]\s*[-$\d\\(]"
)


def computes(step: str) -> bool:
    """Whether a step states arithmetic or algebra that code can check: a number beside an operator, or an equation."""
    return _COMPUTES.search(step) is not None


def needs_code(step: str, score: float, certainty: float = CERTAINTY) -> bool:
    """Whether to write code after the analysis.

    GenPRM's ablation (arXiv 2504.00891, table 5) finds that execution adds little on most steps, and much on steps with
    calculations.

    Args:
        step: the step's text.
        score: P(Yes) after the analysis alone, in [0, 1].
        certainty: the minimum of `max(score, 1 - score)` to skip code, in [0.5, 1].

    Returns:
        True if the step computes something or the analysis leaves the verdict open.
    """
    return computes(step) or max(score, 1.0 - score) < certainty


def settled(scores: Sequence[float], votes: int, threshold: float, confidence: float) -> bool:
    """Whether the verdict on a step is settled before all votes are taken.

    It is certain when no scores of the remaining votes could move the mean across the threshold. Otherwise, the scores
    so far count as fractional right and wrong votes, and the remaining votes follow the Beta-binomial distribution
    under a uniform prior.

    Args:
        scores: the votes so far, each in [0, 1].
        votes: total number of votes.
        threshold: the lowest mean of a right step.
        confidence: in (0, 1]; 1 means that the remaining votes cannot matter.

    Raises:
        ValueError: there are more scores than votes, or the confidence is out of range.
    """
    if len(scores) > votes:
        raise ValueError(f"{len(scores)} scores of {votes} votes")
    if not 0.0 < confidence <= 1.0:
        raise ValueError(f"confidence must be above 0 and at most 1, not {confidence!r}")
    left = votes - len(scores)
    total = math.fsum(scores)
    # The sum of the remaining votes that makes the step right.
    needed = threshold * votes - total
    if left == 0 or needed <= 0 or needed > left:
        return True
    if not scores or confidence == 1.0:
        return False
    right = math.fsum(
        _beta_binomial(count, left, 1.0 + total, 1.0 + len(scores) - total)
        for count in range(math.ceil(needed), left + 1)
    )
    leaning = right if total / len(scores) >= threshold else 1.0 - right
    return leaning >= confidence


def _beta_binomial(count: int, trials: int, a: float, b: float) -> float:
    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    return math.comb(trials, count) * math.exp(log_beta(count + a, trials - count + b) - log_beta(a, b))
