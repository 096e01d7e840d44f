"""ProcessBench (Zheng et al., arXiv 2412.06559): how well a judge finds the first wrong step of a solution.

Its score, one per subset, is the harmonic mean of two accuracies; papers report the plain mean over the subsets.
`binary_f1` is a different score with a similar name, reported by the ThinkPRM paper (arXiv 2504.16828): whether a
solution is right at all. The two are never mixed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from genprm.types import DEFAULT_THRESHOLD

SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")


@dataclass(frozen=True, slots=True)
class F1Score:
    """First-error accuracy. Fractions in [0, 1]; None if there are no rows to measure it on."""

    f1: float | None
    """Harmonic mean of the two accuracies; 0 when both are 0, None when either is None."""
    error_accuracy: float | None
    """Share of the solutions with a wrong step whose first wrong step is predicted exactly."""
    correct_accuracy: float | None
    """Share of the solutions without a wrong step that are predicted -1."""
    errors: int
    """Solutions with a wrong step."""
    correct: int
    """Solutions without a wrong step."""


def f1_score(predictions: Sequence[int | None], labels: Sequence[int]) -> F1Score:
    """Computes the official F1.

    Args:
        predictions: 0-based index of the first wrong step, -1 for none, None for no prediction (counts as a miss).
        labels: the true values, without None.

    Raises:
        ValueError: when the lengths differ or an index is below -1.
    """
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions do not fit {len(labels)} labels")
    for value in (*predictions, *labels):
        if value is not None and value < -1:
            raise ValueError(f"an index must be at least -1, not {value!r}")
    pairs = list(zip(predictions, labels, strict=True))
    wrong = [prediction == label for prediction, label in pairs if label != -1]
    right = [prediction == label for prediction, label in pairs if label == -1]
    error_accuracy = sum(wrong) / len(wrong) if wrong else None
    correct_accuracy = sum(right) / len(right) if right else None
    f1 = None
    if error_accuracy is not None and correct_accuracy is not None:
        total = error_accuracy + correct_accuracy
        f1 = 2 * error_accuracy * correct_accuracy / total if total else 0.0
    return F1Score(f1, error_accuracy, correct_accuracy, len(wrong), len(right))


def binary_f1(predictions: Sequence[bool | None], correct: Sequence[bool]) -> float | None:
    """F1 of telling right solutions from wrong ones, with right as the positive class.

    Args:
        predictions: whether a solution was judged right; None without a judgement, which always counts as wrong.
        correct: whether it is right.

    Returns:
        None when no solution is right and none was judged right.
    """
    guesses = [not truth if guess is None else guess for guess, truth in zip(predictions, correct, strict=True)]
    hits = sum(guess and truth for guess, truth in zip(guesses, correct, strict=True))
    total = sum(guesses) + sum(correct)
    return 2 * hits / total if total else None


def uniform_floor(labels: Sequence[int], lengths: Sequence[int]) -> F1Score:
    """Expected score of guessing: a uniform choice among -1 and every step.

    Args:
        labels: the first wrong steps, -1 for none.
        lengths: the number of steps of each solution.
    """
    chances = [(label != -1, 1 / (length + 1)) for label, length in zip(labels, lengths, strict=True)]
    error = [chance for wrong, chance in chances if wrong]
    right = [chance for wrong, chance in chances if not wrong]
    if not error or not right:
        return F1Score(None, None, None, len(error), len(right))
    a, b = math.fsum(error) / len(error), math.fsum(right) / len(right)
    return F1Score(2 * a * b / (a + b), a, b, len(error), len(right))


def blind_floor(labels: Sequence[int], lengths: Sequence[int]) -> F1Score:
    """Score of the best rule that sees only the number of steps: "none up to m steps, else step k".

    m and k are chosen on these rows, so the score is slightly optimistic. A judge below it has not shown that it reads
    the solutions.

    Args:
        labels: the first wrong steps, -1 for none.
        lengths: the number of steps of each solution.
    """
    rows = Counter(zip(labels, lengths, strict=True))
    errors = sum(count for (label, _), count in rows.items() if label != -1)
    correct = len(labels) - errors
    if not errors or not correct:
        return F1Score(None, None, None, errors, correct)
    best = F1Score(0.0, 0.0, 0.0, errors, correct)
    for most, step in product(range(max(lengths) + 1), range(max(lengths))):
        hits = {True: 0, False: 0}
        for (label, length), count in rows.items():
            guess = -1 if length <= most else min(step, length - 1)
            hits[label != -1] += count * (guess == label)
        a, b = hits[True] / errors, hits[False] / correct
        f1 = 2 * a * b / (a + b) if a + b else 0.0
        if f1 > (best.f1 or 0.0):
            best = F1Score(f1, a, b, errors, correct)
    return best


@dataclass(frozen=True, slots=True)
class TunedThreshold:
    """The threshold that scores best on some rows."""

    threshold: float
    f1: float
    """F1 on those rows; in-sample, so optimistic."""


def tune_threshold(
    scores: Sequence[Sequence[float | None] | None],
    labels: Sequence[int],
    *,
    solutions: Sequence[float | None] | None = None,
    named: Sequence[int | None] | None = None,
) -> TunedThreshold | None:
    """Finds the threshold with the exact highest F1.

    A row is a hit for the thresholds in one interval: above the score of its wrong step, up to the lowest score before
    it. One pass over the sorted interval ends therefore sees every possible F1.

    Args:
        scores: [row][step]; None for a missing score, and for a row that could not be judged, which is a miss at every
            threshold.
        labels: the first wrong steps, -1 for none.
        solutions: scores of whole solutions, from judges that give them; see `find_first_error`.
        named: first errors that the judge named directly, whatever the threshold; None in rows without one.

    Returns:
        The middle of the best interval; of several, the one nearest to 0.5. None without rows of both kinds.
    """
    errors = sum(label != -1 for label in labels)
    correct = len(labels) - errors
    if not errors or not correct:
        return None
    wholes = solutions or [None] * len(labels)
    opens: list[tuple[float, bool]] = []
    closes: list[tuple[float, bool]] = []
    for row, label, whole, name in zip(scores, labels, wholes, named or [None] * len(labels), strict=True):
        hit = None if row is None else _hit_interval(row, label, whole, name)
        if hit is not None:
            opens.append((hit[0], label != -1))
            closes.append((hit[1], label != -1))
    found = {score for row in scores if row is not None for score in row if score is not None}
    found |= {whole for whole in wholes if whole is not None}
    # Thresholds t with a < t <= b, between two neighbouring scores a and b, all give the same predictions.
    edges = [-math.inf, *sorted(found), math.inf]
    opens.sort(reverse=True)
    closes.sort(reverse=True)
    hits = {True: 0, False: 0}
    best: tuple[float, float, float] | None = None
    for a, b in pairwise(edges):
        while closes and closes[-1][0] <= a:
            hits[closes.pop()[1]] -= 1
        while opens and opens[-1][0] <= a:
            hits[opens.pop()[1]] += 1
        x, y = hits[True] / errors, hits[False] / correct
        f1 = 2 * x * y / (x + y) if x + y else 0.0
        threshold = _between(a, b)
        candidate = (f1, -abs(threshold - DEFAULT_THRESHOLD), threshold)
        best = candidate if best is None else max(best, candidate)
    assert best is not None
    return TunedThreshold(best[2], best[0])


def _hit_interval(
    scores: Sequence[float | None], label: int, solution: float | None, named: int | None
) -> tuple[float, float] | None:
    """The thresholds low < t <= high at which `find_first_error` gives the label; None if there are none."""
    if named is not None:
        return (-math.inf, math.inf) if named == label else None
    known = [score for score in scores if score is not None]
    if label == -1:
        if solution is None:
            return (-math.inf, min(known, default=math.inf)) if len(known) == len(scores) else None
        # If no step is judged wrong, the score of the whole solution decides, also about steps without a score.
        return -math.inf, min([*known, solution])
    *before, own = scores[: label + 1]
    if own is None or None in before:
        return None
    high = min((score for score in before if score is not None), default=math.inf)
    return (own, high) if own < high else None


def _between(a: float, b: float) -> float:
    """A number t with a < t <= b: 0.5 if it lies between, else the middle if there is one."""
    if a < DEFAULT_THRESHOLD <= b:
        return DEFAULT_THRESHOLD
    if math.isinf(a):
        return b
    middle = a + 1.0 if math.isinf(b) else (a + b) / 2
    return middle if a < middle <= b else b


def subset_of(identity: str | None, file: str = "") -> str:
    """The subset of a row: the beginning of its id (`math` of `math-17`), else the name of its file."""
    name, dash, number = (identity or "").rpartition("-")
    if dash and number.isdigit() and name:
        return name
    stem = file.rpartition("/")[2].partition(".")[0]
    return stem or "rows"
