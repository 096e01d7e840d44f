"""Fits and measures calibrations of a judge's scores.

A calibrated judge that says 0.9 is right nine times in ten; generative judges are overconfident (arXiv 2504.16828
names it a limitation). A map from scores to scores is fitted on labelled solutions, by `temperature` (one number that
divides the log-odds and keeps the order of scores) or `isotonic` (a monotonic step function, for a thousand steps or
more), and stored in a small JSON file. `genprm.prms.calibration` applies the map.

A label tells only about the steps up to the first wrong one: those before it are right, it is wrong, and the later
ones are unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genprm.extras import need
from genprm.prms.calibration import EPSILON, Calibration, CalibrationError, CalibrationMetrics, Method, finite_log_odds
from genprm.runs.folder import write_atomically
from genprm.runs.rows import VerifyRow

Floats = NDArray[np.float64]

BINS = 15
"""Number of equal-width bins for the expected calibration error and the reliability plot."""


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """Scores of steps with known labels; arrays of the same length."""

    scores: Floats
    """In [0, 1]."""
    log_odds: Floats
    """Of the scores."""
    right: NDArray[np.int64]
    """1 for a right step, 0 for a wrong one."""
    groups: NDArray[np.int64]
    """The solution of each step: steps of one solution stay together in cross-validation."""


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
    """Scores of the same steps before and after calibration."""

    calibration: Calibration
    """Fitted on all steps."""
    right: NDArray[np.int64]
    before: Floats
    after: Floats
    """Each score by a map that was fitted on other solutions."""


def fit(data: LabelledScores, method: Method, *, folds: int = 5, model: str | None = None) -> CrossValidated:
    """Fits a calibration, and measures it by cross-validation over solutions.

    Args:
        data: labelled scores.
        method: the kind of map.
        folds: cross-validation folds.
        model: the judge's name, stored in the calibration.

    Raises:
        CalibrationError: fewer solutions than folds, or steps of one kind only.
        ExtraError: scikit-learn is not installed.
    """
    need("calibrate", "sklearn", what="a calibration")
    from sklearn.model_selection import StratifiedGroupKFold

    solutions = len(np.unique(data.groups))
    if solutions < folds:
        raise CalibrationError(f"{solutions} labelled solutions are too few for {folds} folds")
    if len(np.unique(data.right)) < 2:
        kind = "right" if data.right.all() else "wrong"
        raise CalibrationError(f"all labelled steps are {kind}: there is nothing to calibrate against")
    after = np.empty_like(data.scores)
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(data.scores, data.right, data.groups)
    for train, test in splits:
        if len(np.unique(data.right[train])) < 2:
            raise CalibrationError(f"too few wrong steps for {folds} folds: use fewer folds")
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
    """Computes calibration metrics of scores against labels."""
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
    """Mean score."""
    right: float
    """Share of right steps."""
    steps: int


def reliability(scores: Floats, right: NDArray[np.int64], bins: int = BINS) -> list[Bin]:
    """The points of a reliability plot: the non-empty bins of equal width."""
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
    """Whether even odds separate the labels perfectly: then the likelihood has no maximum."""
    return bool(np.where(right == 1, log_odds, -log_odds).min() >= 0)


def _temperature(log_odds: Floats, right: NDArray[np.int64]) -> float:
    """The maximum-likelihood temperature.

    Separable labels are softened first, to (n + 1) / (n + 2) for n right steps and 1 / (n + 2) for n wrong ones (Platt,
    "Probabilistic outputs for support vector machines", 1999); otherwise the fit would be a temperature of 0.
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
