"""What to spend tokens on: when a verdict is settled, and which steps deserve code. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from genprm.config import CERTAINTY, Until
from genprm.prms.base import PRMError


@dataclass(frozen=True, slots=True)
class Spending:
    """How far a judge goes before it stops."""

    until: Until = Until.END
    """How far a solution is judged. Steps after the first wrong one have no score then, and say so."""
    confidence: float | None = None
    """None takes every vote on every step. A number in (0, 1] stops voting on a step once its verdict is settled with
    that confidence (1: once the missing votes cannot flip it)."""
    certainty: float = CERTAINTY
    """For `Mode.AUTO`: see `needs_code`."""

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence <= 1:
            raise PRMError(f"confidence must be above 0 and at most 1, not {self.confidence!r}")
        if not 0.5 <= self.certainty <= 1:
            raise PRMError(f"certainty must be between 0.5 and 1, not {self.certainty!r}")


WAVE = 2
"""Votes asked for at once while it is open whether more are needed."""

_COMPUTES = re.compile(
    r"\d\s*(?:[-+*/^×÷·%=<>]|\\(?:times|div|cdot|frac|sqrt|pm|equiv|approx|le|ge)\b|\bx\b)|[=^]\s*[-$\d\\(]"
)


def computes(step: str) -> bool:
    """Whether a step states arithmetic or algebra that code can check: a number beside an operator, or an equation."""
    return _COMPUTES.search(step) is not None


def needs_code(step: str, score: float, certainty: float = CERTAINTY) -> bool:
    """Whether to go on to code after the analysis.

    GenPRM's ablation (arXiv 2504.00891, table 5) finds that execution adds little on most steps, and much where there
    is something to calculate.

    Args:
        step: the step's text.
        score: P(Yes) that the model would give after the analysis alone, in [0, 1].
        certainty: how far from undecided that must be: `max(score, 1 - score)`, in [0.5, 1].

    Returns:
        True where the step computes something or the analysis leaves the verdict open.
    """
    return computes(step) or max(score, 1.0 - score) < certainty


def settled(scores: Sequence[float], votes: int, threshold: float, confidence: float) -> bool:
    """Whether the verdict on a step stands although votes are missing.

    It stands for certain when no scores of the missing votes could carry the mean over the threshold. Short of that,
    the scores so far count as that many right and wrong answers, and the missing votes are drawn from the
    Beta-binomial distribution that follows from a uniform prior.

    Args:
        scores: the votes so far, each in [0, 1].
        votes: how many there would be in all.
        threshold: the mean from which the step is right.
        confidence: how sure to be, in (0, 1]; 1 stops only where the missing votes cannot matter.

    Raises:
        ValueError: there are more scores than votes, or the confidence is out of range.
    """
    if len(scores) > votes:
        raise ValueError(f"{len(scores)} scores of {votes} votes")
    if not 0.0 < confidence <= 1.0:
        raise ValueError(f"confidence must be above 0 and at most 1, not {confidence!r}")
    left = votes - len(scores)
    total = math.fsum(scores)
    # What the missing votes must add up to for the step to be right.
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
