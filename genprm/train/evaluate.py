"""A model's verdicts on held-out conversations, teacher-forced: one forward pass, no generation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from genprm.benchmarks.processbench import f1_score
from genprm.train.replay import IGNORE
from genprm.train.token_rows import TokenSet


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's results on held-out rows, given the recorded rationales up to each verdict."""

    loss: float
    """Mean cross-entropy of the learned tokens, in nats."""
    verdict_accuracy: float | None
    """Accuracy of all verdicts; None without verdicts."""
    f1: float | None
    """Official F1 of ProcessBench over the solutions: the first step whose P(No) is above P(Yes). None without
        verdicts on steps, as of ThinkPRM."""
    error_accuracy: float | None
    correct_accuracy: float | None
    solutions: int
    """Labelled solutions with verdicts on steps."""

    def metrics(self) -> dict[str, float]:
        """The metrics by name, without unmeasured ones."""
        named = {
            "eval_loss": self.loss,
            "eval_verdict_accuracy": self.verdict_accuracy,
            "eval_f1": self.f1,
            "eval_error_accuracy": self.error_accuracy,
            "eval_correct_accuracy": self.correct_accuracy,
        }
        return {name: value for name, value in named.items() if value is not None}


def evaluate(model: Any, held_out: TokenSet, *, autocast: Any = None) -> Evaluation:
    """Runs the model over every sequence.

    Args:
        model: a causal language model of transformers, on its device.
        held_out: the rows.
        autocast: a context manager that sets the compute type; None computes in the weights' type.
    """
    import contextlib

    import torch

    training = model.training
    model.eval()
    total, learned, right, asked = 0.0, 0, 0, 0
    first_error: dict[int, int] = {}
    judged: set[int] = set()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            for row, source in zip(held_out.rows, held_out.source, strict=True):
                targets = [k for k, label in enumerate(row.labels) if label != IGNORE and k > 0]
                places = [k - 1 for k in targets] + [v.at - 1 for v in row.verdicts]
                ids = torch.tensor([row.input_ids], device=device)
                with autocast() if autocast is not None else contextlib.nullcontext():
                    # Only the logits at these positions: those of all positions would need gigabytes.
                    logits = model(
                        input_ids=ids, logits_to_keep=torch.tensor(places, device=device), use_cache=False
                    ).logits[0]
                logits = logits.float()
                wanted = torch.tensor([row.labels[k] for k in targets], device=device)
                total += float(torch.nn.functional.cross_entropy(logits[: len(targets)], wanted, reduction="sum"))
                learned += len(targets)
                for verdict, scores in zip(row.verdicts, logits[len(targets) :], strict=True):
                    yes = bool(scores[verdict.yes] >= scores[verdict.no])
                    right += yes == verdict.correct
                    asked += 1
                    if verdict.step < 0:
                        continue  # on the whole solution, as ThinkPRM's: it does not say which step is wrong
                    judged.add(source)
                    if not yes:
                        first_error[source] = min(verdict.step, first_error.get(source, verdict.step))
    finally:
        model.train(training)
    known = [(first_error.get(k, -1), label) for k in sorted(judged) if (label := held_out.labels[k]) is not None]
    score = f1_score([guess for guess, _ in known], [label for _, label in known])
    accuracy = right / asked if asked else None
    loss = total / learned if learned else math.nan
    return Evaluation(loss, accuracy, score.f1, score.error_accuracy, score.correct_accuracy, len(known))
