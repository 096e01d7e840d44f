"""Bootstrap intervals of scores, and paired tests of whether two judges differ.

Rows fall into a few classes (has an error or not, found or not), and a score depends only on the counts. Resampling
rows is then the same as drawing the counts from a multinomial distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Hit:
    """Whether the first error of a row was found."""

    error: bool
    """Whether the row has one."""
    hit: bool


@dataclass(frozen=True, slots=True)
class PairedHit:
    """`Hit` of two judges on the same row."""

    error: bool
    first: bool
    second: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """The second judge's score minus the first one's."""

    value: float
    interval: Interval
    p: float
    """Two-sided: twice the share of resampled differences on the other side of 0; at least 1 / resamples."""


@dataclass(frozen=True, slots=True)
class McNemar:
    """Rows on which only one of two judges is right, and the p-value."""

    first_only: int
    second_only: int
    p: float
    """Exact, two-sided: the probability that a fair coin splits those rows at least as unevenly."""


def f1_interval(
    subsets: Sequence[Sequence[Hit]], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval | None:
    """Interval of the mean F1 of one or more subsets, each resampled separately.

    Returns:
        None if a subset has no row with an error, or none without.
    """
    rng = np.random.default_rng(seed)
    samples: list[Floats] = []
    for rows in subsets:
        counts = np.array(
            [[sum(r.error is e and r.hit is h for r in rows) for h in (True, False)] for e in (True, False)]
        )
        if not counts.sum(axis=1).all():
            return None
        drawn = rng.multinomial(len(rows), counts.ravel() / len(rows), size=resamples).reshape(-1, 2, 2)
        samples.append(_f1(drawn[:, :, 0], drawn.sum(axis=2)))
    return _interval(np.mean(samples, axis=0), level) if samples else None


def f1_difference(
    subsets: Sequence[Sequence[PairedHit]], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Difference | None:
    """Difference of two judges' mean F1, with rows resampled in pairs. None as for `f1_interval`."""
    rng = np.random.default_rng(seed)
    samples: list[Floats] = []
    values: list[float] = []
    for rows in subsets:
        both = (True, False)
        # [error][first judge][second judge]
        counts = np.array(
            [[[sum((r.error, r.first, r.second) == (e, a, b) for r in rows) for b in both] for a in both] for e in both]
        )
        totals = counts.sum(axis=(1, 2))
        if not totals.all():
            return None
        drawn = rng.multinomial(len(rows), counts.ravel() / len(rows), size=resamples).reshape(-1, 2, 2, 2)
        drawn = np.concatenate([counts[None], drawn])
        total = drawn.sum(axis=(2, 3))
        difference = _f1(drawn[:, :, :, 0].sum(axis=2), total) - _f1(drawn[:, :, 0, :].sum(axis=2), total)
        values.append(float(difference[0]))
        samples.append(difference[1:])
    if not samples:
        return None
    return _difference(float(np.mean(values)), np.mean(samples, axis=0), level)


def mean_interval(
    values: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Interval of the mean of numbers, one per problem."""
    return _interval(_means(np.asarray(values, dtype=float), resamples, seed), level)


def mean_difference(
    first: Sequence[float], second: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Difference:
    """Difference of the means of paired numbers."""
    gaps = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    return _difference(float(gaps.mean()), _means(gaps, resamples, seed), level)


def mcnemar(pairs: Sequence[tuple[bool, bool]]) -> McNemar:
    """McNemar's exact test on rows that two judges got right or wrong."""
    from scipy.stats import binomtest

    first_only = sum(a and not b for a, b in pairs)
    second_only = sum(b and not a for a, b in pairs)
    total = first_only + second_only
    return McNemar(first_only, second_only, float(binomtest(first_only, total, 0.5).pvalue) if total else 1.0)


def _f1(hits: NDArray[np.int64], totals: NDArray[np.int64]) -> Floats:
    """F1 of resamples [sample][error or not]; NaN if a sample has only one kind of row."""
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = hits / totals
        both = accuracy.sum(axis=1)
        return np.where(both == 0, 0.0, 2 * accuracy.prod(axis=1) / both)


def _means(values: Floats, resamples: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
    return counts @ values / len(values)


def _interval(samples: Floats, level: float) -> Interval:
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _difference(value: float, samples: Floats, level: float) -> Difference:
    samples = samples[~np.isnan(samples)]
    other_side = min(float(np.mean(samples <= 0)), float(np.mean(samples >= 0)))
    return Difference(value, _interval(samples, level), min(1.0, max(2 * other_side, 1 / len(samples))))
