"""ProcessBench's score (Zheng et al., arXiv 2412.06559): the harmonic mean of two accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class F1Score:
    """How well first errors were found. Fractions in [0, 1]; None where there was nothing to measure it on."""

    f1: float | None
    """Harmonic mean of the two accuracies; 0 when both are 0, None when either is None."""
    error_accuracy: float | None
    """Among solutions with a wrong step: how many have exactly that first wrong step predicted."""
    correct_accuracy: float | None
    """Among solutions without a wrong step: how many are predicted -1."""
    errors: int
    """Solutions with a wrong step."""
    correct: int
    """Solutions without a wrong step."""


def f1_score(predictions: Sequence[int | None], labels: Sequence[int]) -> F1Score:
    """Computes the official F1.

    Args:
        predictions: 0-based index of the first wrong step, -1 for none, None where no prediction came out, which
            counts as a miss.
        labels: the same of the truth, without None.

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
