"""Posteriors and intervals of values and steps from rollouts, valid when sampling stops early. Pure.

Step probabilities come from a hidden Markov model of the values of one solution, on a grid over [0, 1]. A step is wrong
with probability `WRONG`; a wrong step takes the value to zero (`KILLED` of them) or to a uniform value below
`threshold` times the value before. A right step takes it to a uniform value above the value before, or with
probability `LOSS` to one between that value and `threshold` times it. Every rollout is one draw from the value at its
prefix, so the rollouts of a prefix inform both the step before and the step after it. Inference is exact on the grid.

The prior says nothing about how fast values rise: a completer may gain on every step, on one key step, or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from genprm.rpe.labels import Method

WRONG = 0.25
"""Prior probability that a step is wrong."""
KILLED = 0.3
"""Share of the wrong steps after which no rollout reaches the answer."""
LOSS = 0.1
"""Share of the right steps that lower the value."""
COVERAGE = 0.95
"""Coverage of the intervals of values."""
_CELLS = 64
_GRID = (np.arange(_CELLS) + 0.5) / _CELLS


_Vector = NDArray[np.float64]


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


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of values."""

    low: float
    high: float


def step_probabilities(values: Sequence[Counts], threshold: float) -> list[float]:
    """Returns the posterior probability that each step is right, given that all earlier steps are right.

    Args:
        values: (steps + 1,) counts by the number of steps of the prefix; the first is the problem alone.
        threshold: least ratio of a right step, above 0.

    Returns:
        One probability per step, up to the first prefix without rollouts.
    """
    kept, lost = _kernels(threshold)
    known = next((length for length, count in enumerate(values) if not count.rollouts), len(values))
    inner = [count for count in values[:known] if not count.exact]
    if not inner:
        return []
    likely = [_likelihood(count.successes, count.rollouts) for count in inner]
    # Backwards: the likelihood of all later rollouts by the value here. Zero is a separate, absorbing state.
    later: list[_Vector] = [np.ones(_CELLS)]
    dead = [1.0]
    for index in range(len(inner) - 1, 0, -1):
        chance, zero = likely[index]
        reached = zero * dead[0]
        message = (kept + lost) @ (chance * later[0]) + WRONG * KILLED * reached
        scale = float(message.max())
        later.insert(0, message / scale)
        dead.insert(0, reached / scale)
    found: list[float] = []
    here = likely[0][0] / likely[0][0].sum()
    for index in range(1, len(inner)):
        chance, zero = likely[index]
        right = (here @ kept) * chance
        for_it = float(right @ later[index])
        against = float(((here @ lost) * chance) @ later[index]) + WRONG * KILLED * zero * dead[index]
        found.append(for_it / (for_it + against) if for_it + against > 0 else 0.0)
        here = right / right.sum() if right.sum() > 0 else here
    if len(inner) < known:
        # The value after the last step is known: the step is right when it is large enough.
        value = values[known - 1].value
        found.append(float(here[threshold * _GRID <= value].sum()) if value else 0.0)
    return found


@lru_cache(maxsize=16)
def _kernels(threshold: float) -> tuple[_Vector, _Vector]:
    """(value before, value after) probabilities of a right step, and of a wrong one that leaves a value above zero."""
    kept, lost = np.zeros((_CELLS, _CELLS)), np.zeros((_CELLS, _CELLS))
    for row, value in enumerate(_GRID):
        limit = min(threshold * value, 1.0)
        lost[row] = WRONG * (1 - KILLED) * _uniform(0.0, limit)
        if limit < value:
            kept[row] = (1 - WRONG) * ((1 - LOSS) * _uniform(value, 1.0) + LOSS * _uniform(limit, value))
        elif limit < 1.0:
            kept[row] = (1 - WRONG) * _uniform(limit, 1.0)
    return kept, lost


def _uniform(low: float, high: float) -> _Vector:
    edges = np.arange(_CELLS + 1) / _CELLS
    overlap = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None)
    return overlap / overlap.sum()


@lru_cache(maxsize=65536)
def _likelihood(successes: int, rollouts: int) -> tuple[_Vector, float]:
    """Likelihood of counts by the value on the grid, and at a value of zero, both up to the same factor."""
    logs = successes * np.log(_GRID) + (rollouts - successes) * np.log1p(-_GRID)
    most = float(logs.max())
    return np.exp(logs - most), float(np.exp(-most)) if successes == 0 else 0.0


def probability(before: Counts, after: Counts, threshold: float) -> float:
    """Returns the probability that the value after a step is at least `threshold` times the value before it.

    Both values have independent uniform priors, except exact values. If the value before is exactly
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
        limits = threshold * special.betaincinv(won + 1, tried - won + 1, _GRID)
    won, tried, exact = after
    if exact:
        return float(np.mean(won / tried >= limits)) if won else 0.0
    return float(np.mean(special.betaincc(won + 1, tried - won + 1, np.minimum(limits, 1.0))))


def posterior_mean(counts: Counts) -> float | None:
    """Returns the mean of the value's Beta posterior (uniform prior): `(successes + 1) / (rollouts + 2)`.

    Unlike the share of successes, it does not depend on why sampling stopped. None without rollouts.
    """
    if counts.exact:
        return counts.value
    return (counts.successes + 1) / (counts.rollouts + 2) if counts.rollouts else None


@lru_cache(maxsize=65536)
def value_interval(counts: Counts, coverage: float = COVERAGE) -> Interval:
    """Returns a confidence interval of the value that holds whenever sampling stops.

    It is a confidence sequence: the values `p` at which the likelihood ratio of the uniform mixture over `p` is below
    `1 / (1 - coverage)`. The ratio is a martingale at the true value, so by Ville's inequality the interval covers it
    simultaneously at all numbers of rollouts with this probability (Robbins, 1970; Howard et al., arXiv 1810.08240).
    """
    if counts.exact:
        return Interval(counts.value, counts.value)
    won, tried = counts.successes, counts.rollouts
    limit = float(special.betaln(won + 1, tried - won + 1)) + float(np.log(1 - coverage))

    def excess(p: float) -> float:
        return float(special.xlogy(won, p) + special.xlog1py(tried - won, -p)) - limit

    def edge(outside: float) -> float:
        if excess(outside) >= 0:
            return outside
        return float(optimize.brentq(excess, outside, counts.value))  # pyright: ignore[reportArgumentType]

    return Interval(edge(0.0), edge(1.0)) if tried else Interval(0.0, 1.0)


def progress_interval(method: Method, before: Counts, after: Counts, coverage: float = COVERAGE) -> Interval:
    """Returns a confidence interval of a step's progress that holds whenever sampling stops.

    It follows from the intervals of the two values, at half the error each. The upper end of a ratio may be infinite.
    """
    if method is Method.HARD:
        return value_interval(after, coverage)
    each = (1 + coverage) / 2
    first, second = value_interval(before, each), value_interval(after, each)
    if method is Method.DIFFERENCE:
        return Interval(second.low - first.high, second.high - first.low)
    low = second.low / first.high if first.high else 0.0
    return Interval(low, second.high / first.low if first.low else float("inf"))
