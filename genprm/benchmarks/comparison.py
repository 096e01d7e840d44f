"""Two runs of a benchmark over the same inputs: which is better, and is that more than chance?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genprm.benchmarks.best_of_n import BestOfNMetrics
from genprm.benchmarks.prmbench import PRMBenchMetrics, prm_score
from genprm.benchmarks.processbench import SUBSETS, f1_score, subset_of
from genprm.benchmarks.statistics import (
    RESAMPLES,
    Difference,
    Interval,
    McNemar,
    PairedHit,
    f1_difference,
    mcnemar,
    mean_difference,
)
from genprm.runs.rows import VerifyRow


@dataclass(frozen=True, slots=True)
class Comparison:
    """One score of two runs."""

    name: str
    rows: int
    """Rows that both runs have."""
    first: float | None
    second: float | None
    difference: Difference | None
    """None where the score is not defined, as for a subset without errors."""
    rows_test: McNemar | None
    """On the rows' being right or wrong; None for scores that are not counted in rows."""


def compare_first_errors(first: Sequence[VerifyRow], second: Sequence[VerifyRow]) -> list[Comparison]:
    """Compares F1 a subset, and their mean.

    Args:
        first: the labelled rows of one run.
        second: of another; rows that only one run has are left out.

    Raises:
        ValueError: the runs have no labelled row in common.
    """
    others = {row.key: row for row in second}
    pairs = [(row, others[row.key]) for row in first if row.label is not None and row.key in others]
    if not pairs:
        raise ValueError("the two runs have no labelled row in common")
    groups: dict[str, list[tuple[VerifyRow, VerifyRow]]] = {}
    for pair in pairs:
        groups.setdefault(subset_of(pair[0].id), []).append(pair)
    known = [name for name in SUBSETS if name in groups]
    names = [*known, *sorted(groups.keys() - set(known))]
    parts = [_first_errors(name, [groups[name]]) for name in names]
    return [*parts, _first_errors("mean", [groups[name] for name in names])] if len(parts) > 1 else parts


def compare_prmbench(first: PRMBenchMetrics, second: PRMBenchMetrics) -> list[Comparison]:
    """Compares PRMScore over all steps, with rows resampled in pairs.

    Raises:
        ValueError: the runs have no row in common.
    """
    import numpy as np

    keys = [key for key in first.outcomes if key in second.outcomes]
    if not keys:
        raise ValueError("the two runs have no row in common")
    counts = np.array([[first.outcomes[key], second.outcomes[key]] for key in keys])  # [row][run][count]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), size=RESAMPLES)
    drawn = np.tensordot(weights, counts, axes=1)  # [sample][run][count]
    scores = np.array([[prm_score(list(map(int, row))) or 0.0 for row in sample] for sample in drawn])
    gaps = scores[:, 1] - scores[:, 0]
    one, two = (prm_score([int(count) for count in counts[:, run].sum(axis=0)]) for run in (0, 1))
    difference = None
    if one is not None and two is not None:
        low, high = np.quantile(gaps, [0.025, 0.975])
        side = min(float(np.mean(gaps <= 0)), float(np.mean(gaps >= 0)))
        interval = Interval(float(low), float(high))
        difference = Difference(two - one, interval, min(1.0, max(2 * side, 1 / RESAMPLES)))
    return [Comparison("PRMScore", len(keys), one, two, difference, None)]


def compare_best_of_n(first: BestOfNMetrics, second: BestOfNMetrics) -> list[Comparison]:
    """Compares the accuracy of every method that both runs have.

    Raises:
        ValueError: the runs are over different problems.
    """
    if first.ids != second.ids:
        raise ValueError("the two runs are over different problems")
    others = {(method.method, method.n): method for method in second.methods}
    out: list[Comparison] = []
    for method in first.methods:
        other = others.get((method.method, method.n))
        if other is None:
            continue
        whole = all(value in (0.0, 1.0) for value in (*method.outcomes, *other.outcomes))
        pairs = [(bool(a), bool(b)) for a, b in zip(method.outcomes, other.outcomes, strict=True)]
        out.append(
            Comparison(
                f"{method.method}, n = {method.n}",
                len(first.ids),
                method.accuracy,
                other.accuracy,
                mean_difference(method.outcomes, other.outcomes),
                mcnemar(pairs) if whole else None,
            )
        )
    return out


def _first_errors(name: str, groups: Sequence[Sequence[tuple[VerifyRow, VerifyRow]]]) -> Comparison:
    hits = [[_hit(a, b) for a, b in group] for group in groups]
    scores = [[_f1(group, run) for run in (0, 1)] for group in groups]
    means = [
        None if any(row[run] is None for row in scores) else sum(row[run] or 0.0 for row in scores) / len(scores)
        for run in (0, 1)
    ]
    return Comparison(
        name,
        sum(map(len, groups)),
        means[0],
        means[1],
        f1_difference(hits),
        mcnemar([(hit.first, hit.second) for group in hits for hit in group]),
    )


def _hit(a: VerifyRow, b: VerifyRow) -> PairedHit:
    return PairedHit(a.label != -1, a.first_error == a.label, b.first_error == a.label)


def _f1(group: Sequence[tuple[VerifyRow, VerifyRow]], run: int) -> float | None:
    labels = [pair[0].label for pair in group]
    return f1_score([pair[run].first_error for pair in group], [label for label in labels if label is not None]).f1
