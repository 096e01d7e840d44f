"""The implicit PRM's loss and PRIME's step, against the formulas in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from genprm.train.implicit import cross_entropy, normalise, online_update, response_rewards, token_logprobs
from genprm.train.rows import TrainError

BETA = 0.05


def tiny(seed: int) -> Any:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=23,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.5,
        )
    )


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 23, (4, 9), generator=source)
    lengths, prompts = torch.tensor([9, 7, 5, 8]), torch.tensor([3, 2, 4, 1])
    place = torch.arange(9)
    return {
        "ids": ids,
        "attention_mask": (place < lengths[:, None]).long(),
        "response_mask": (place >= prompts[:, None]) & (place < lengths[:, None]),
        "correct": torch.tensor([1, 0, 0, 1]),
    }


def by_hand(model: Any, reference: Any, batch: dict[str, torch.Tensor]) -> tuple[list[list[float]], torch.Tensor]:
    """Rewards and loss in float64, one response at a time, without padding."""
    rewards, losses = [], []
    for ids, mask, chosen, correct in zip(
        batch["ids"], batch["attention_mask"], batch["response_mask"], batch["correct"], strict=True
    ):
        length = int(mask.sum())
        scores = [m(input_ids=ids[None, :length]).logits[0].double().log_softmax(-1) for m in (model, reference)]
        row = [
            BETA * (scores[0][k - 1, ids[k]] - scores[1][k - 1, ids[k]].detach()) if chosen[k] else torch.zeros(())
            for k in range(9)
        ]
        outcome = sum(row)
        losses.append(-torch.log(torch.sigmoid(outcome if correct else -outcome)))
        rewards.append([float(one.detach()) for one in row])
    return rewards, sum(losses) / len(losses)


@pytest.mark.parametrize("update", ["before", "after", "none"])
def test_the_step_is_that_of_the_formulas_in_float64(batch: dict[str, torch.Tensor], update: Any) -> None:
    model, reference = tiny(0), tiny(1)
    exact, fixed = copy.deepcopy(model).double(), copy.deepcopy(reference).double()
    rewards, loss = by_hand(exact, fixed, batch)
    loss.backward()
    torch.optim.SGD(exact.parameters(), lr=0.5).step()

    with torch.no_grad():
        known = token_logprobs(reference, batch["ids"], batch["attention_mask"])
    before = copy.deepcopy(model.state_dict())
    done = online_update(
        model,
        torch.optim.SGD(model.parameters(), lr=0.5),
        **batch,
        reference=known,
        beta=BETA,
        update=update,
        max_grad_norm=None,
    )
    assert done.loss == pytest.approx(loss.item(), rel=1e-5)
    if update == "before":
        rewards, _ = by_hand(exact, fixed, batch)  # with the new weights
    torch.testing.assert_close(done.rewards.double(), torch.tensor(rewards, dtype=torch.float64), rtol=1e-4, atol=1e-6)
    for (name, got), wanted in zip(model.named_parameters(), exact.parameters(), strict=True):
        if update == "none":
            assert torch.equal(got, before[name])
        else:
            torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_updates_teach_right_from_wrong(batch: dict[str, torch.Tensor]) -> None:
    model = tiny(0)
    with torch.no_grad():
        known = token_logprobs(model, batch["ids"], batch["attention_mask"])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    seen = [online_update(model, optimizer, **batch, reference=lambda: known, beta=1.0) for _ in range(30)]
    assert seen[0].loss == pytest.approx(math.log(2), rel=1e-4)  # the model is its own reference: every reward is 0
    assert seen[-1].loss < 0.1
    assert seen[-1].accuracy == 1.0


def test_what_is_masked_counts_for_nothing_even_where_it_is_infinite() -> None:
    mask = torch.tensor([[False, True, True]])
    logprobs = torch.tensor([[-math.inf, -1.0, -2.0]], requires_grad=True)
    rewards = response_rewards(logprobs, torch.zeros(1, 3), mask, beta=0.5)
    assert rewards.tolist() == [[0.0, -0.5, -1.0]]
    cross_entropy(rewards, torch.tensor([1.0])).backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0, 0] == 0
    assert torch.isfinite(logprobs.grad).all()


def test_batch_norm_divides_by_the_largest_return() -> None:
    rewards = torch.tensor([[1.0, -3.0, 1.0], [0.0, 0.5, 0.0]])
    assert normalise(rewards).tolist() == (rewards / 2).tolist()  # returns of the first row: -1, -2, 1
    assert normalise(torch.zeros(2, 3)).tolist() == torch.zeros(2, 3).tolist()
    # A share that is normalised by itself is scaled by itself, as the docstring warns.
    assert normalise(rewards[1:]).tolist() != normalise(rewards)[1:].tolist()


def test_bad_input_is_named_and_nothing_is_updated(batch: dict[str, torch.Tensor]) -> None:
    model = tiny(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = copy.deepcopy(model.state_dict())
    known = torch.zeros(4, 9)
    for change, says in (
        ({"correct": torch.tensor([1, 0])}, "do not fit each other"),
        ({"response_mask": torch.zeros(4, 9)}, "response 0 has no token"),
        ({"reference": torch.zeros(4, 8)}, r"the shape \(4, 8\), not \(4, 9\)"),
        ({"reference": torch.full((4, 9), math.nan)}, "the loss is nan: nothing was updated"),
    ):
        with pytest.raises(TrainError, match=says):
            online_update(model, optimizer, **{**batch, "reference": known, **change})
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
