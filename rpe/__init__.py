"""Relative progress estimation: step labels from Monte Carlo rollouts."""

from rpe.labels import Method, StepLabel, step_labels

__all__ = ["Method", "StepLabel", "step_labels"]
