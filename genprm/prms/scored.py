"""Judgements of steps that a model scores directly, without a chain."""

from __future__ import annotations

import math

from genprm.prms.base import PRMError
from genprm.types import StepJudgement, Verdict, sigmoid


def scored_step(log_odds: float, threshold: float) -> StepJudgement:
    """The judgement of a step from the log-odds that it is right.

    Args:
        log_odds: any number; the score is its sigmoid.
        threshold: the lowest score of a right step.

    Raises:
        PRMError: the log-odds are NaN.
    """
    if math.isnan(log_odds):
        raise PRMError("the model gave no number (NaN): its weights or its precision are broken")
    score = sigmoid(log_odds)
    return StepJudgement(score, log_odds, Verdict.YES if score >= threshold else Verdict.NO, ())
