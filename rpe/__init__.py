"""Relative progress estimation: step labels from Monte Carlo rollouts."""

from genprm.rpe.labels import Method, StepLabel, dynamic_rollouts, first_wrong, step_labels

__all__ = ["Method", "StepLabel", "dynamic_rollouts", "first_wrong", "step_labels"]
