"""Computes ProcessBench's table from the rows of a run: a score per subset, its interval, and its floors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from genprm.benchmarks.processbench import (
    SUBSETS,
    F1Score,
    binary_f1,
    blind_floor,
    f1_score,
    subset_of,
    tune_threshold,
    uniform_floor,
)
from genprm.benchmarks.statistics import Hit, f1_interval
from genprm.data.inputs import InputRow
from genprm.runs.rows import VerifyRow
from genprm.types import find_first_error


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled solution and its row in a run."""

    key: str
    subset: str
    label: int
    length: int
    """Number of steps."""
    row: VerifyRow | None
    """None if the run failed to judge it."""

    def predicted(self, threshold: float | None = None) -> int | None:
        """The first error that the run found, at its own threshold or another.

        If the judge named the first error directly, the threshold does not matter.
        """
        row = self.row
        if row is None:
            return None
        return row.first_error if threshold is None else at_threshold(row, threshold).first_error

    def judged_right(self, threshold: float | None = None) -> bool | None:
        """Whether the whole solution was judged right."""
        if self.row is not None and self.row.solution is not None and self.row.first_error_vote is None:
            score = self.row.solution.score
            return None if score is None else score >= (self.row.threshold if threshold is None else threshold)
        predicted = self.predicted(threshold)
        return None if predicted is None else predicted == -1


def at_threshold(row: VerifyRow, threshold: float) -> VerifyRow:
    """A row judged at another threshold. A first error that was named directly stays."""
    if row.first_error_vote is not None:
        return row
    whole = None if row.solution is None else row.solution.score
    found = find_first_error(row.scores, threshold, whole)
    return row.model_copy(update={"threshold": threshold, "first_error": found})


def items_of(inputs: Iterable[InputRow], rows: Mapping[str, VerifyRow]) -> list[Item]:
    """Pairs labelled inputs with their rows. An input without a row was not judged, and counts as a miss."""
    return [
        Item(row.key, subset_of(row.id, row.file), row.label, len(row.steps), rows.get(row.key))
        for row in inputs
        if row.label is not None
    ]


class SubsetMetrics(BaseModel):
    """ProcessBench's score of one subset. Fractions in [0, 1]."""

    name: str
    rows: int
    errors: int
    correct: int
    error_accuracy: float | None
    correct_accuracy: float | None
    f1: float | None
    low: float | None
    """95 % bootstrap interval of `f1`."""
    high: float | None
    floor: float | None
    """Expected F1 of a uniform choice among -1 and every step."""
    blind: float | None = None
    """F1 of the best rule that sees only the number of steps: see `blind_floor`."""
    undecided: int
    """Rows without a prediction, counted as wrong; includes `failed`."""
    failed: int
    """Rows that could not be judged."""
    binary_f1: float | None
    """Whether solutions are right at all (arXiv 2504.16828): not comparable with `f1`."""
    tokens: float
    """Generated tokens per row."""


class CurvePoint(BaseModel):
    """The macro average at a smaller number of votes, averaged over disjoint groups of the run's chains."""

    votes: int
    f1: float
    tokens: float
    """Generated tokens per row."""


class ProcessBenchMetrics(BaseModel):
    """ProcessBench's table."""

    subsets: list[SubsetMetrics]
    macro_f1: float | None
    """Plain mean over the subsets; with all four, the published average."""
    macro_low: float | None
    macro_high: float | None
    macro_floor: float | None
    macro_blind: float | None = None
    macro_binary_f1: float | None
    threshold: float | None
    """None means the run's own threshold."""
    tuned_on: str | None
    """The subset on which the threshold was tuned; its figures are in-sample."""
    curve: list[CurvePoint] = []


def evaluate(items: Sequence[Item], *, tune_on: str | None = None, resamples: int = 10_000) -> ProcessBenchMetrics:
    """Computes the table.

    Args:
        items: labelled solutions with their rows.
        tune_on: the subset whose best threshold is applied to all; None keeps the run's threshold.
        resamples: bootstrap resamples.

    Raises:
        ValueError: there are no labelled rows, no subset `tune_on`, or nothing to tune on in it.
    """
    groups = _by_subset(items)
    if not groups:
        raise ValueError("no row has a label: there is nothing to compare with")
    threshold = None
    if tune_on is not None:
        if tune_on not in groups:
            raise ValueError(f"there is no subset {tune_on!r} to tune on; the subsets are {', '.join(groups)}")
        rows = [item.row for item in groups[tune_on]]
        tuned = tune_threshold(
            [row and row.scores for row in rows],
            [item.label for item in groups[tune_on]],
            solutions=[row.solution.score if row and row.solution else None for row in rows],
            named=[row and row.first_error_vote for row in rows],
        )
        if tuned is None:
            raise ValueError(f"the subset {tune_on!r} needs rows with and without an error to tune on")
        threshold = tuned.threshold
    subsets = [_subset(name, group, threshold, resamples) for name, group in groups.items()]
    hits = [_hits(group, threshold) for group in groups.values()]
    interval = f1_interval(hits, resamples=resamples)
    return ProcessBenchMetrics(
        subsets=subsets,
        macro_f1=_mean([subset.f1 for subset in subsets]),
        macro_low=interval.low if interval else None,
        macro_high=interval.high if interval else None,
        macro_floor=_mean([subset.floor for subset in subsets]),
        macro_blind=_mean([subset.blind for subset in subsets]),
        macro_binary_f1=_mean([subset.binary_f1 for subset in subsets]),
        threshold=threshold,
        tuned_on=tune_on,
        curve=vote_curve(items, threshold),
    )


def vote_curve(items: Sequence[Item], threshold: float | None = None) -> list[CurvePoint]:
    """F1 at 1, 2, 4 ... of the run's votes. Empty if rows have no chains or only one.

    Args:
        items: labelled solutions with their rows.
        threshold: None keeps the run's threshold.
    """
    judged = [item for item in items if item.row is not None]
    counts = {_votes(item.row) for item in judged if item.row}
    if len(counts) != 1 or (votes := counts.pop()) < 2:
        return []
    points: list[CurvePoint] = []
    for size in sorted({1 << power for power in range(votes.bit_length()) if 1 << power <= votes} | {votes}):
        scores: list[float] = []
        tokens: list[float] = []
        for start in range(0, votes - size + 1, size):
            chosen = slice(start, start + size)
            predictions = [None if item.row is None else _vote(item.row, chosen, threshold) for item in items]
            score = _macro_f1(items, predictions)
            if score is None:
                return []
            scores.append(score)
            tokens.append(math.fsum(_tokens(item.row, chosen) for item in judged if item.row) / len(judged))
        points.append(CurvePoint(votes=size, f1=_average(scores), tokens=round(_average(tokens), 1)))
    return points


def _by_subset(items: Iterable[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.subset, []).append(item)
    known = [name for name in SUBSETS if name in groups]
    return {name: groups[name] for name in [*known, *sorted(groups.keys() - set(known))]}


def _subset(name: str, items: Sequence[Item], threshold: float | None, resamples: int) -> SubsetMetrics:
    predictions = [item.predicted(threshold) for item in items]
    labels = [item.label for item in items]
    lengths = [item.length for item in items]
    score = f1_score(predictions, labels)
    interval = f1_interval([_hits(items, threshold)], resamples=resamples)
    generated = [item.row.tokens.generated for item in items if item.row is not None]
    return SubsetMetrics(
        name=name,
        rows=len(items),
        errors=score.errors,
        correct=score.correct,
        error_accuracy=score.error_accuracy,
        correct_accuracy=score.correct_accuracy,
        f1=score.f1,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        floor=uniform_floor(labels, lengths).f1,
        blind=blind_floor(labels, lengths).f1,
        undecided=predictions.count(None),
        failed=sum(item.row is None for item in items),
        binary_f1=binary_f1([item.judged_right(threshold) for item in items], [label == -1 for label in labels]),
        tokens=round(sum(generated) / len(generated), 1) if generated else 0.0,
    )


def _hits(items: Iterable[Item], threshold: float | None) -> list[Hit]:
    return [Hit(item.label != -1, item.predicted(threshold) == item.label) for item in items]


def _macro_f1(items: Sequence[Item], predictions: Sequence[int | None]) -> float | None:
    groups: dict[str, list[tuple[int | None, int]]] = {}
    for item, prediction in zip(items, predictions, strict=True):
        groups.setdefault(item.subset, []).append((prediction, item.label))
    scores: list[F1Score] = []
    for group in groups.values():
        guesses, labels = zip(*group, strict=True)
        scores.append(f1_score(guesses, labels))
    return _mean([score.f1 for score in scores])


def _votes(row: VerifyRow) -> int:
    return min((len(step.chains) for step in row.steps), default=0)


def _vote(row: VerifyRow, chosen: slice, threshold: float | None) -> int | None:
    """The prediction from some of a row's chains."""
    threshold = row.threshold if threshold is None or row.first_error_vote is not None else threshold
    by_step = [[chain.score for chain in step.chains[chosen]] for step in row.steps]
    if row.first_error_vote is not None:
        first = [find_first_error(scores, threshold) for scores in zip(*by_step, strict=True)]
        named = [index for index in first if index is not None]
        return max(named, key=named.count) if named else None
    scores = [_known_mean(scores) for scores in by_step]
    whole = None if row.solution is None else _known_mean([chain.score for chain in row.solution.chains[chosen]])
    return find_first_error(scores, threshold, whole)


def _tokens(row: VerifyRow, chosen: slice) -> int:
    # If there is a judgement of the whole solution, the chains of the steps are parts of its chains.
    parts = row.steps if row.solution is None or not row.solution.chains else [row.solution]
    if all(step.chains and step.chains[0].generated for step in row.steps):
        parts = row.steps
    return sum(chain.generated for part in parts for chain in part.chains[chosen])


def _known_mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _average(known) if known and len(known) == len(values) else None


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
