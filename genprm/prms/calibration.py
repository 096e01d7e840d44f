"""Applies a calibration fitted by `genprm.calibrate` to a judge's scores."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from genprm.prms.base import PRM, CalibratedVotes, OnStep, judge_watched
from genprm.types import DEFAULT_THRESHOLD, Judgement, StepJudgement, Verdict, logit, sigmoid

if TYPE_CHECKING:
    from pydantic import JsonValue

Method = Literal["temperature", "isotonic"]

EPSILON = 1e-12
"""Scores are clipped to this distance from 0 and 1, so that log-odds are finite."""


class CalibrationError(ValueError):
    """There is nothing to fit a calibration on, or a file is not a calibration."""


class CalibrationMetrics(BaseModel):
    """How well scores fit the labels."""

    ece: float
    """Expected calibration error: mean distance between score and share of right steps, weighted by bin size."""
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
    """Whether the scores separated right from wrong steps perfectly. The temperature is then fitted to softened
        labels; more labelled solutions, including ones that the judge gets wrong, give a better one."""
    scores: list[float] = []
    """Isotonic: the increasing arguments of the known points."""
    values: list[float] = []
    """Isotonic: the values at these points; linear between them, constant outside."""
    model: str | None = None
    """The model whose scores it was fitted on."""
    solutions: int = 0
    steps: int = 0
    before: CalibrationMetrics | None = None
    after: CalibrationMetrics | None = None
    """By cross-validation: no step was scored by a map fitted on its solution."""

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
            CalibrationError: it cannot be read or is not a calibration.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"cannot read the calibration {str(path)!r}: {error}") from error
        except ValidationError as error:
            raise CalibrationError(f"{str(path)!r} is not a calibration: {error}") from error

    def apply(self, score: float, log_odds: float | None = None) -> float:
        """The calibrated score.

        Args:
            score: in [0, 1].
            log_odds: its log-odds if known: more precise than the score near 0 and 1.
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
        """A judgement with calibrated scores and verdicts. Chains are unchanged."""
        whole, threshold = judgement.solution, judgement.threshold
        solution = None if whole is None else self.apply_to_step(whole, threshold)
        steps = tuple(self.apply_to_step(step, threshold) for step in judgement.steps)
        return replace(judgement, steps=steps, solution=solution)

    def apply_to_step(self, step: StepJudgement, threshold: float) -> StepJudgement:
        """The judgement of one step with its calibrated score and verdict."""
        if step.score is None:
            return step
        score = self.apply(step.score, step.log_odds)
        # Log-odds are more precise than the score near 0 and 1.
        log_odds = logit(score) if self.temperature is None else self._log_odds(step.score, step.log_odds)
        verdict = Verdict.YES if score >= threshold else Verdict.NO
        return replace(step, score=score, log_odds=log_odds, verdict=verdict)


def calibrated(prm: PRM, calibration: Calibration) -> PRM:
    """The judge with calibrated scores.

    A judge whose decisions depend on scores (when to stop voting or judging) calibrates them itself, so that decisions
    and reported scores agree; the same object is returned. Other judges are wrapped.
    """
    if isinstance(prm, CalibratedVotes):
        prm.calibration = calibration
        return prm
    return CalibratedPRM(prm, calibration)


class CalibratedPRM:
    """A judge whose finished judgements are calibrated. Create it with `calibrated`."""

    def __init__(self, prm: PRM, calibration: Calibration) -> None:
        self.name = prm.name
        self.capacity = prm.capacity
        self.threshold: float = getattr(prm, "threshold", DEFAULT_THRESHOLD)
        self.prm = prm
        """The wrapped judge."""
        self._calibration = calibration

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges a solution; see `genprm.prms.base.PRM`."""
        return self._calibration.apply_to(await self.prm.judge(problem, steps, seed=seed))

    async def judge_watched(self, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
        """Judges a solution and reports each calibrated step; see `genprm.prms.base.WatchablePRM`."""

        def calibrated(index: int, step: StepJudgement) -> None:
            on_step(index, self._calibration.apply_to_step(step, self.threshold))

        judgement = await judge_watched(self.prm, problem, steps, calibrated, seed=seed)
        return self._calibration.apply_to(judgement)

    @property
    def facts(self) -> dict[str, JsonValue]:
        """The facts of the wrapped judge."""
        return self.prm.facts

    async def close(self) -> None:
        """Closes the wrapped judge."""
        await self.prm.close()


def finite_log_odds(score: float, log_odds: float | None = None) -> float:
    """The log-odds of a score, for fitting and for scoring alike.

    A score of exactly 0 or 1, as from unanimous votes, has infinite log-odds: it is clipped by `EPSILON`.
    """
    if log_odds is not None and math.isfinite(log_odds):
        return log_odds
    return logit(min(1 - EPSILON, max(EPSILON, score)))
