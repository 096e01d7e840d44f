"""Calibration: scores that mean what they say.

A judge that says 0.9 should be right nine times in ten; generative judges are more confident than that
(arXiv 2504.16828 names it a limitation). From labelled solutions a map from scores to scores is fitted, by
`temperature` (one number that divides the log-odds, so the order of scores stays) or `isotonic` (any rising step
function, for a thousand steps and more), and kept in a small JSON file. `genprm.prms.calibration` applies the map.

What is known of a labelled solution are its steps up to the first wrong one: those before it are right, that one is
wrong, and the rest is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genprm.prms.calibration import EPSILON, Calibration, CalibrationError, CalibrationMetrics, Method, finite_log_odds
from genprm.runs.folder import write_atomically
from genprm.runs.rows import VerifyRow

if TYPE_CHECKING:
    pass

Floats = NDArray[np.float64]

BINS = 15
"""Of equal width, for the expected calibration error and the reliability plot."""


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """The scores of steps whose label is known; arrays of the same length."""

    scores: Floats
    """In [0, 1]."""
    log_odds: Floats
    """Of the scores."""
    right: NDArray[np.int64]
    """1 for a right step, 0 for a wrong one."""
    groups: NDArray[np.int64]
    """Which solution a step is of: its steps are alike, and stay together in cross-validation."""


def labelled_scores(rows: Iterable[VerifyRow]) -> LabelledScores:
    """Collects the steps of labelled rows that have both a score and a known label."""
    scores: list[float] = []
    log_odds: list[float] = []
    right: list[int] = []
    groups: list[int] = []
    for number, row in enumerate(row for row in rows if row.label is not None):
        assert row.label is not None
        known = row.steps if row.label == -1 else row.steps[: row.label + 1]
        for index, step in enumerate(known):
            if step.score is None:
                continue
            scores.append(step.score)
            log_odds.append(finite_log_odds(step.score, step.log_odds))
            right.append(int(index != row.label))
            groups.append(number)
    return LabelledScores(np.array(scores), np.array(log_odds), np.array(right), np.array(groups))


@dataclass(frozen=True, slots=True)
class CrossValidated:
    """Scores of the same steps, before calibration and after."""

    calibration: Calibration
    """Fitted on all of them."""
    right: NDArray[np.int64]
    before: Floats
    after: Floats
    """Each by a map that was fitted on other solutions."""


def fit(data: LabelledScores, method: Method, *, folds: int = 5, model: str | None = None) -> CrossValidated:
    """Fits a calibration, and measures it by cross-validation over solutions.

    Args:
        data: labelled scores.
        method: what kind of map.
        folds: parts that the solutions are split into.
        model: the name to note.

    Raises:
        CalibrationError: fewer solutions than folds, or steps of one kind only.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    solutions = len(np.unique(data.groups))
    if solutions < folds:
        raise CalibrationError(f"{solutions} labelled solutions are not enough for {folds} folds")
    if len(np.unique(data.right)) < 2:
        kind = "right" if data.right.all() else "wrong"
        raise CalibrationError(f"all labelled steps are {kind}: there is nothing to calibrate against")
    after = np.empty_like(data.scores)
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(data.scores, data.right, data.groups)
    for train, test in splits:
        if len(np.unique(data.right[train])) < 2:
            raise CalibrationError(f"too few wrong steps for {folds} folds: pass fewer")
        after[test] = _apply(_fit(data, train, method), data, test)
    everything = np.arange(len(data.scores))
    calibration = _fit(data, everything, method).model_copy(
        update={
            "model": model,
            "solutions": solutions,
            "steps": len(data.scores),
            "before": measure(data.scores, data.right),
            "after": measure(after, data.right),
        }
    )
    return CrossValidated(calibration, data.right, data.scores, after)


def measure(scores: Floats, right: NDArray[np.int64]) -> CalibrationMetrics:
    """How well scores fit labels."""
    from sklearn.metrics import brier_score_loss, log_loss

    bins = reliability(scores, right)
    return CalibrationMetrics(
        ece=math.fsum(b.steps * abs(b.score - b.right) for b in bins) / len(scores),
        brier=float(brier_score_loss(right, scores)),
        log_loss=float(log_loss(right, np.clip(scores, EPSILON, 1 - EPSILON), labels=[0, 1])),
    )


@dataclass(frozen=True, slots=True)
class Bin:
    """Steps of similar scores."""

    score: float
    """Their mean score."""
    right: float
    """The share of them that is right."""
    steps: int


def reliability(scores: Floats, right: NDArray[np.int64], bins: int = BINS) -> list[Bin]:
    """The points of a reliability plot: bins of equal width that have steps in them."""
    which = np.minimum((scores * bins).astype(int), bins - 1)
    return [
        Bin(float(scores[chosen].mean()), float(right[chosen].mean()), int(chosen.sum()))
        for number in range(bins)
        if (chosen := which == number).any()
    ]


def _fit(data: LabelledScores, chosen: NDArray[np.int64], method: Method) -> Calibration:
    right = data.right[chosen]
    if method == "temperature":
        log_odds = data.log_odds[chosen]
        temperature = _temperature(log_odds, right)
        return Calibration(method=method, temperature=temperature, separable=_separable(log_odds, right))
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(data.scores[chosen], right)
    known: list[float] = [float(value) for value in regression.X_thresholds_]
    values: list[float] = [min(1.0, max(0.0, float(value))) for value in regression.y_thresholds_]
    return Calibration(method=method, scores=known, values=values)


def _separable(log_odds: Floats, right: NDArray[np.int64]) -> bool:
    """Whether no step is on the wrong side of even odds: then the likelihood has no maximum, the sharper the better."""
    return bool(np.where(right == 1, log_odds, -log_odds).min() >= 0)


def _temperature(log_odds: Floats, right: NDArray[np.int64]) -> float:
    """The temperature of the highest likelihood.

    Separable labels are softened first, to (n + 1) / (n + 2) for n right steps and 1 / (n + 2) for n wrong ones (Platt,
    "Probabilistic outputs for support vector machines", 1999): they would fit a temperature of 0.
    """
    from scipy.optimize import minimize_scalar

    target = right.astype(float)
    if _separable(log_odds, right):
        ones = int(right.sum())
        target = np.where(right == 1, (ones + 1) / (ones + 2), 1 / (len(right) - ones + 2))

    def loss(log_t: float) -> float:
        scaled = log_odds / math.exp(log_t)
        return float(np.mean(target * np.logaddexp(0.0, -scaled) + (1 - target) * np.logaddexp(0.0, scaled)))

    found = minimize_scalar(loss, bounds=(math.log(0.01), math.log(1000.0)), method="bounded")
    return math.exp(float(found.x))


def _apply(calibration: Calibration, data: LabelledScores, chosen: NDArray[np.int64]) -> Floats:
    pairs = zip(data.scores[chosen], data.log_odds[chosen], strict=True)
    return np.array([calibration.apply(float(score), float(log_odds)) for score, log_odds in pairs])


def save(calibration: Calibration, path: str | Path) -> None:
    """Writes a calibration as JSON, for `Calibration.load`."""
    write_atomically(Path(path), calibration.model_dump_json(indent=2) + "\n")
