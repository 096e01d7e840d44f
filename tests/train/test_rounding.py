"""How much of a training's changes the written weights keep."""

from __future__ import annotations

import pytest
import torch

from genprm.train.rounding import Rounding


def test_changes_that_the_rounding_loses_are_counted() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(100, 100, bias=False))
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(1.0)
    seen = Rounding(model)
    assert seen.kept() is None
    assert seen.remark() is None
    with torch.no_grad():
        model[0].weight[:3] += 1e-4  # bfloat16 has nothing between 1 and 1.0078
        model[0].weight[3] += 1e-2
    assert seen.kept() == 0.25
    assert (seen.remark() or "").startswith("Only 25.0% of the changed weights still differ once rounded to bfloat16")
    with torch.no_grad():
        model[0].weight += 1.0
        model[1].weight += 1e-2
    assert seen.kept() == 1
    assert seen.remark() is None


def test_a_sample_of_a_large_matrix_is_of_all_its_columns() -> None:
    model = torch.nn.Linear(1024, 1024, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    seen = Rounding(model)
    with torch.no_grad():
        model.weight += torch.where(torch.arange(1024) % 4 == 0, 1e-2, 1e-4)
    assert seen.kept() == pytest.approx(0.25, abs=0.05)
