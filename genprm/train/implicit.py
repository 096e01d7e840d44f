r"""Implicit PRMs: the loss they are trained with, and the online update of PRIME, as an RL loop calls it.

A causal language model pi whose outcome reward is r(y) = beta * log(pi(y) / pi_ref(y)) is a process reward model (Yuan
et al., arXiv 2412.01981). It needs response labels alone: cross-entropy on sigmoid(r) against "the answer is right"
(their equation 5). PRIME (Cui et al., arXiv 2502.01456) takes that step on every batch of rollouts of the policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from genprm.prms.implicit.logratio import DEFAULT_BETA
from genprm.train.rows import TrainError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class OnlineUpdate:
    """The result of an online update."""

    rewards: Tensor
    """(responses, tokens) beta * log-ratio of each response token, 0 elsewhere; detached."""
    loss: float
    """Cross-entropy before the update."""
    accuracy: float
    """Share of the responses whose reward has the sign of their label, before the update."""


def response_rewards(logprobs: Tensor, reference: Tensor, mask: Tensor, beta: float = DEFAULT_BETA) -> Tensor:
    """Beta * (log pi - log pi_ref) of every response token.

    Args:
        logprobs: (responses, tokens) log pi of each token, in nats.
        reference: the reference model's log-probabilities, in the same shape.
        mask: (responses, tokens) true at the tokens of the response.
        beta: the scale of the rewards.

    Returns:
        (responses, tokens), 0 where the mask is false.
    """
    # Unscored positions may hold anything, even infinities: replace instead of multiplying by 0.
    return (beta * (logprobs - reference)).where(mask, logprobs.new_zeros(()))


def cross_entropy(rewards: Tensor, correct: Tensor) -> Tensor:
    """Mean cross-entropy of sigmoid(sum of a response's rewards) against its label (arXiv 2412.01981, equation 5).

    Args:
        rewards: (responses, tokens) from `response_rewards`.
        correct: (responses,) 1 for a right final answer, 0 for a wrong one; values between are soft labels.
    """
    import torch

    outcome = rewards.sum(dim=-1)
    return torch.nn.functional.binary_cross_entropy_with_logits(outcome, correct.to(outcome.dtype))


def normalise(rewards: Tensor) -> Tensor:
    """PRIME's batch norm: rewards divided by the largest |return| of the batch.

    The return of a token is the sum of the rewards from it on. The maximum is over this call's input: a loop that
    splits a batch over workers must gather the rewards first, or each worker's share is scaled separately.

    Args:
        rewards: (responses, tokens), 0 at unscored tokens.
    """
    returns = rewards.flip(-1).cumsum(-1).flip(-1)
    largest = returns.abs().max()
    return rewards / largest if largest > 0 else rewards


def token_logprobs(model: Any, ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Log P of every token given the tokens before it; 0 for the first.

    Args:
        model: a causal language model of transformers.
        ids: (responses, tokens) prompt and response, padded.
        attention_mask: (responses, tokens) 1 at tokens, 0 at padding.
    """
    import torch

    logits = model(input_ids=ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    chosen = logits.gather(-1, ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
    return torch.nn.functional.pad(chosen, (1, 0))


def online_update(
    model: Any,
    optimizer: Any,
    ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    correct: Tensor,
    reference: Tensor | Callable[[], Tensor],
    *,
    beta: float = 0.05,
    update: Literal["before", "after", "none"] = "before",
    max_grad_norm: float | None = 10.0,
) -> OnlineUpdate:
    """One step of PRIME: token rewards for a batch of rollouts, and an update of the implicit PRM on their outcomes.

    Args:
        model: the implicit PRM, a causal language model of transformers.
        optimizer: the optimiser of its parameters.
        ids: (responses, tokens) prompts and responses, padded.
        attention_mask: (responses, tokens) 1 at tokens, 0 at padding.
        response_mask: (responses, tokens) true at the tokens of the responses.
        correct: (responses,) 1 for right outcomes, 0 for wrong ones.
        reference: (responses, tokens) log-probabilities of the reference model, or a function that computes them.
        beta: the scale of the rewards; 0.05 in PRIME's recipe.
        update: `before` updates and then scores with the new weights (the recipe of verl), `after` scores first (one
            forward pass fewer), `none` only scores.
        max_grad_norm: the gradient is scaled down to this norm; None leaves it.

    Returns:
        The rewards, and how well the model told right from wrong before the update. `normalise` is not applied.

    Raises:
        TrainError: inconsistent shapes, a response without tokens, or a loss that is not finite (then nothing is
            updated).
    """
    import torch

    mask = response_mask.bool()
    if not ids.shape == attention_mask.shape == mask.shape or correct.shape != ids.shape[:1]:
        shapes = [tuple(t.shape) for t in (ids, attention_mask, mask, correct)]
        raise TrainError(f"ids, attention_mask, response_mask and correct do not fit each other: {shapes}")
    if not bool(mask.any(dim=-1).all()):
        empty = int((~mask.any(dim=-1)).nonzero()[0])
        raise TrainError(f"response {empty} has no token in response_mask")
    with torch.no_grad():
        known = reference if isinstance(reference, torch.Tensor) else reference()
    if known.shape != ids.shape:
        raise TrainError(
            f"the reference's log-probabilities have the shape {tuple(known.shape)}, not {tuple(ids.shape)}"
        )

    def scored() -> Tensor:
        logprobs = token_logprobs(model, ids, attention_mask)
        return response_rewards(logprobs, known.to(logprobs.dtype), mask, beta)

    with torch.set_grad_enabled(update != "none"):
        rewards = scored()
        loss = cross_entropy(rewards, correct)
    agree = (rewards.detach().sum(-1) > 0) == (correct > 0.5)
    if not bool(torch.isfinite(loss)):
        raise TrainError(f"the loss is {loss.item()}: nothing was updated. Look at the reference's log-probabilities.")
    if update != "none":
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if update == "before":
            with torch.no_grad():
                rewards = scored()
    return OnlineUpdate(rewards.detach(), float(loss.detach()), float(agree.float().mean()))
