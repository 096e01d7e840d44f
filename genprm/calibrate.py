"""Calibration: scores that mean what they say.

A judge that says 0.9 should be right nine times in ten; generative judges are surer than that (arXiv 2504.16828 names
it a limitation). From labelled solutions a map from scores to scores is fitted, by `temperature` (one number that
divides the log-odds, so the order of scores stays) or `isotonic` (any rising step function, for a thousand steps and
more), and kept in a small JSON file.

What is known of a labelled solution are its steps up to the first wrong one: those before it are right, that one is
wrong, and of the rest nobody knows.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from genprm.prms.base import PRM, CalibratedVotes, OnStep, judge_watched
from genprm.runs.folder import write_atomically
from genprm.runs.rows import VerifyRow
from genprm.types import DEFAULT_THRESHOLD, Judgement, StepJudgement, Verdict, logit, sigmoid

if TYPE_CHECKING:
    from pydantic import JsonValue

Floats = NDArray[np.float64]
Method = Literal["temperature", "isotonic"]

BINS = 15
"""Of equal width, for the expected calibration error and the reliability plot."""
_EPSILON = 1e-12
"""Scores this near to 0 and 1 are taken as so far away from them: log-odds stay finite."""


class CalibrationError(ValueError):
    """There is nothing to fit a calibration on, or a file holds none."""


class CalibrationMetrics(BaseModel):
    """How well scores fit the labels."""

    ece: float
    """Expected calibration error: mean distance of score and share of right steps over the bins, by their sizes."""
    brier: float
    """Mean squared distance of score and label."""
    log_loss: float
    """Mean negative log-likelihood, in nats."""


class Calibration(BaseModel):
    """A map from scores to scores, and what it was fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Divides the log-odds."""
    separable: bool = False
    """Whether the scores separated right from wrong steps without an error. The temperature is then fitted to softened
    labels: more labelled solutions, among them some that the judge gets wrong, give a better one."""
    scores: list[float] = []
    """Isotonic: where the function is known, rising."""
    values: list[float] = []
    """Isotonic: its values there. Straight lines between, constant outside."""
    model: str | None = None
    """The model whose scores it was fitted on."""
    solutions: int = 0
    steps: int = 0
    before: CalibrationMetrics | None = None
    after: CalibrationMetrics | None = None
    """By cross-validation: no step was judged by a map that had seen its solution."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.method == "temperature" and self.temperature is None:
            raise ValueError("a temperature calibration needs its temperature")
        if self.method == "isotonic" and (not self.scores or len(self.scores) != len(self.values)):
            raise ValueError("an isotonic calibration needs as many values as scores, at least one")
        rising = self.scores == sorted(self.scores) and self.values == sorted(self.values)
        if any(not 0 <= value <= 1 for value in (*self.scores, *self.values)) or not rising:
            raise ValueError("scores and values must lie in [0, 1], both rising")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads a file that `save` wrote.

        Raises:
            CalibrationError: it cannot be read or is no calibration.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"cannot read the calibration {str(path)!r}: {error}") from error
        except ValidationError as error:
            raise CalibrationError(f"{str(path)!r} is no calibration: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes it as JSON."""
        write_atomically(Path(path), self.model_dump_json(indent=2) + "\n")

    def apply(self, score: float, log_odds: float | None = None) -> float:
        """The calibrated score.

        Args:
            score: in [0, 1].
            log_odds: of that score, where they are known: finer than the score near 0 and 1.
        """
        return sigmoid(self._log_odds(score, log_odds)) if self.temperature is not None else self._isotonic(score)

    def raw_threshold(self, threshold: float) -> float:
        """The lowest score whose calibrated score is at least `threshold`; see `genprm.prms.base.ScoreMap`."""
        if self.temperature is not None:
            return math.inf if threshold >= 1 else sigmoid(self.temperature * logit(threshold))
        index = bisect.bisect_left(self.values, threshold)
        if index == 0:
            return 0.0
        if index == len(self.values):
            return math.inf
        low, high = self.values[index - 1], self.values[index]
        part = (threshold - low) / (high - low)
        return self.scores[index - 1] + part * (self.scores[index] - self.scores[index - 1])

    def _log_odds(self, score: float, log_odds: float | None) -> float:
        assert self.temperature is not None
        return finite_log_odds(score, log_odds) / self.temperature

    def _isotonic(self, score: float) -> float:
        index = bisect.bisect_left(self.scores, score)
        if index == 0:
            return self.values[0]
        if index == len(self.scores):
            return self.values[-1]
        low, high = self.scores[index - 1], self.scores[index]
        part = (score - low) / (high - low)
        return self.values[index - 1] + part * (self.values[index] - self.values[index - 1])

    def apply_to(self, judgement: Judgement) -> Judgement:
        """A judgement with calibrated scores, and verdicts by them. Chains keep what they said."""
        whole, threshold = judgement.solution, judgement.threshold
        solution = None if whole is None else self.apply_to_step(whole, threshold)
        steps = tuple(self.apply_to_step(step, threshold) for step in judgement.steps)
        return replace(judgement, steps=steps, solution=solution)

    def apply_to_step(self, step: StepJudgement, threshold: float) -> StepJudgement:
        """The judgement of one step with its calibrated score, and the verdict by that."""
        if step.score is None:
            return step
        score = self.apply(step.score, step.log_odds)
        # Log-odds keep the resolution that the score loses near 0 and 1.
        log_odds = logit(score) if self.temperature is None else self._log_odds(step.score, step.log_odds)
        verdict = Verdict.YES if score >= threshold else Verdict.NO
        return replace(step, score=score, log_odds=log_odds, verdict=verdict)


def calibrated(prm: PRM, calibration: Calibration) -> PRM:
    """The judge with calibrated scores.

    A judge that decides by its scores (when to stop voting, where to stop judging) calibrates them itself, so that it
    decides by what it reports; it stays the same object. Any other is wrapped.
    """
    if isinstance(prm, CalibratedVotes):
        prm.calibration = calibration
        return prm
    return CalibratedPRM(prm, calibration)


class CalibratedPRM:
    """A judge whose judgements are calibrated when they are finished. Open it with `calibrated`."""

    def __init__(self, prm: PRM, calibration: Calibration) -> None:
        self.name = prm.name
        self.capacity = prm.capacity
        self.threshold: float = getattr(prm, "threshold", DEFAULT_THRESHOLD)
        self._prm = prm
        self._calibration = calibration

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges a solution; see `genprm.prms.base.PRM`."""
        return self._calibration.apply_to(await self._prm.judge(problem, steps, seed=seed))

    async def judge_watched(self, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
        """Judges a solution, and tells of each calibrated step; see `genprm.prms.base.WatchablePRM`."""

        def calibrated(index: int, step: StepJudgement) -> None:
            on_step(index, self._calibration.apply_to_step(step, self.threshold))

        judgement = await judge_watched(self._prm, problem, steps, calibrated, seed=seed)
        return self._calibration.apply_to(judgement)

    @property
    def facts(self) -> dict[str, JsonValue]:
        """Those of the judge behind it."""
        return self._prm.facts

    async def close(self) -> None:
        """Closes the judge behind it."""
        await self._prm.close()


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
        log_loss=float(log_loss(right, np.clip(scores, _EPSILON, 1 - _EPSILON), labels=[0, 1])),
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


def finite_log_odds(score: float, log_odds: float | None = None) -> float:
    """The log-odds of a score, for fitting and for scoring alike.

    A score of exactly 0 or 1, as of unanimous votes, has infinite log-odds: it is taken as `_EPSILON` away from there.
    """
    if log_odds is not None and math.isfinite(log_odds):
        return log_odds
    return logit(min(1 - _EPSILON, max(_EPSILON, score)))
