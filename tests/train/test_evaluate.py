"""The evaluation on held-out rows, with a model whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from genprm.train.evaluate import evaluate
from genprm.train.export import TokenRow, VerdictAt
from genprm.train.replay import IGNORE
from genprm.train.token_rows import TokenSet

YES, NO = 3, 4


class SaysNo(torch.nn.Module):
    """A No everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.odds = torch.nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]))

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.odds.expand(1, len(logits_to_keep), 5))


def held_out(step: int) -> TokenSet:
    """A right and a wrong solution, each with one verdict."""
    rows = [
        TokenRow([0, 1, answer], [IGNORE, IGNORE, answer], (VerdictAt(step, 2, answer == YES, YES, NO),))
        for answer in (YES, NO)
    ]
    return TokenSet(rows, [0, 1], [-1, 0])


def test_a_verdict_on_the_whole_has_an_accuracy_and_no_f1() -> None:
    """It does not say which step is wrong."""
    assert evaluate(SaysNo(), held_out(-1)).metrics().keys() == {"eval_loss", "eval_verdict_accuracy"}
    found = evaluate(SaysNo(), held_out(0))
    assert (found.verdict_accuracy, found.error_accuracy, found.correct_accuracy, found.f1) == (0.5, 1.0, 0.0, 0.0)
