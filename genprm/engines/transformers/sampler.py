"""Samples the next token of many sequences at once, each with its own settings and randomness."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from genprm.engines.base import Sampling


def next_tokens(logits: Tensor, samplings: Sequence[Sampling], rngs: Sequence[random.Random]) -> list[int]:
    """Samples one token per row, independent of the other rows.

    Args:
        logits: [rows, vocabulary], any float type.
        samplings: settings of each row.
        rngs: source of each row's single random number; greedy rows take none.
    """
    tokens = logits.argmax(-1)
    # Rows with a cut-off order their tokens by probability, others by id. The order of a row must not depend on its
    # neighbours, or its seed would not determine its text.
    drawn = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    for cut_off in (False, True):
        rows = [row for row in drawn if (samplings[row].top_k > 0 or samplings[row].top_p < 1) == cut_off]
        if rows:
            draw = _draw_cut_off if cut_off else _draw
            chosen = [samplings[row] for row in rows]
            uniform = logits.new_tensor([rngs[row].random() for row in rows], dtype=torch.float32)
            temperature = logits.new_tensor([s.temperature for s in chosen], dtype=torch.float32)
            tokens[rows] = draw(logits[rows].float() / temperature[:, None], chosen, uniform)
    return tokens.tolist()


def _draw(logits: Tensor, samplings: Sequence[Sampling], uniform: Tensor) -> Tensor:
    return _invert(logits.softmax(-1), uniform)


def _draw_cut_off(logits: Tensor, samplings: Sequence[Sampling], uniform: Tensor) -> Tensor:
    """Keeps the `top_k` likeliest tokens, then of those the fewest whose renormalised probability reaches `top_p`."""
    size = logits.shape[-1]
    top_k = logits.new_tensor([min(s.top_k or size, size) for s in samplings], dtype=torch.long)
    top_p = logits.new_tensor([s.top_p for s in samplings])
    logits, ids = logits.topk(int(top_k.max()), dim=-1)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    probs = logits.masked_fill(rank >= top_k[:, None], -torch.inf).softmax(-1)
    before = probs.cumsum(-1) - probs
    probs = probs.masked_fill((before >= top_p[:, None]) & (rank > 0), 0.0)
    return ids.gather(-1, _invert(probs, uniform)[:, None])[:, 0]


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution; the probabilities need not sum to one."""
    cumulative = probs.cumsum(-1)
    threshold = (uniform * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_(max=probs.shape[-1] - 1)
