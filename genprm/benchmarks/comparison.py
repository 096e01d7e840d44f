"""Compares two runs of a benchmark over the same inputs: which is better, and is the difference significant?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from genprm.benchmarks.best_of_n import BestOfNMetrics
from genprm.benchmarks.evaluation import at_threshold
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
from genprm.runs.folder import FAILURES, METRICS, read_rows_of
from genprm.runs.rows import FailureRow, VerifyRow


@dataclass(frozen=True, slots=True)
class Comparison:
    """One score, compared between two runs."""

    name: str
    rows: int
    """Rows that both runs attempted."""
    first: float | None
    second: float | None
    difference: Difference | None
    """None if the score is undefined, as for a subset without errors."""
    rows_test: McNemar | None
    """On rows judged right or wrong; None for scores that are not counted by row."""


@dataclass(frozen=True, slots=True)
class FirstErrorRun:
    """A run's first-error predictions."""

    rows: Mapping[str, VerifyRow]
    """Key -> row, of the rows that were judged."""
    failed: Mapping[str, FailureRow] = field(default_factory=dict[str, FailureRow])
    """Key -> failure, of the rows that could not be judged. They count as misses, as in the run's own table."""
    threshold: float | None = None
    """The tuned threshold of the run's table; None keeps each row's threshold."""

    def tried(self) -> Mapping[str, VerifyRow | FailureRow]:
        """All rows that the run judged or failed to judge, by key."""
        return {**self.failed, **self.rows}

    def predicted(self, key: str) -> int | None:
        """The first error of a row at the run's threshold; None without a prediction and for a failed row."""
        row = self.rows.get(key)
        if row is None or self.threshold is None:
            return None if row is None else row.first_error
        return at_threshold(row, self.threshold).first_error


class _Threshold(BaseModel):
    threshold: float | None = None


class _Table(BaseModel):
    processbench: _Threshold | None = None


def read_first_errors(path: Path) -> FirstErrorRun:
    """Reads a run of `verify` or `bench processbench`.

    Raises:
        RunError: it is damaged.
    """
    rows = {row.key: row for row in read_rows_of(path, VerifyRow)}
    failed = {row.key: row for row in read_rows_of(path, FailureRow, FAILURES) if row.key is not None}
    try:
        table = _Table.model_validate_json((path / METRICS).read_bytes()).processbench
    except FileNotFoundError:
        table = None
    return FirstErrorRun(rows, failed, table and table.threshold)


def compare_first_errors(first: FirstErrorRun, second: FirstErrorRun) -> list[Comparison]:
    """Compares F1 of each subset and their mean, over the labelled rows that both runs attempted.

    A row that failed in a run counts as a miss of that run.

    Raises:
        ValueError: the runs have no labelled row in common.
    """
    groups: dict[str, list[_Pair]] = {}
    others = second.tried()
    for key, row in first.tried().items():
        if row.label is not None and key in others:
            pair = _Pair(row.label, first.predicted(key), second.predicted(key))
            groups.setdefault(subset_of(row.id), []).append(pair)
    if not groups:
        raise ValueError("the two runs have no labelled row in common")
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
                f"{method.method}, n={method.n}",
                len(first.ids),
                method.accuracy,
                other.accuracy,
                mean_difference(method.outcomes, other.outcomes),
                mcnemar(pairs) if whole else None,
            )
        )
    return out


@dataclass(frozen=True, slots=True)
class _Pair:
    """One row's label, and the predictions of the two runs."""

    label: int
    first: int | None
    second: int | None


def _first_errors(name: str, groups: Sequence[Sequence[_Pair]]) -> Comparison:
    hits = [[PairedHit(p.label != -1, p.first == p.label, p.second == p.label) for p in group] for group in groups]
    first = [f1_score([pair.first for pair in group], [pair.label for pair in group]).f1 for group in groups]
    second = [f1_score([pair.second for pair in group], [pair.label for pair in group]).f1 for group in groups]
    return Comparison(
        name,
        sum(map(len, groups)),
        _mean(first),
        _mean(second),
        f1_difference(hits),
        mcnemar([(hit.first, hit.second) for group in hits for hit in group]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
