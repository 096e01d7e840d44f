"""What every engine checks before it takes a request, so that a bad one is refused alone and in the same words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from genprm.engines.base import ContextOverflowError, EngineError, Sampling

MAX_CHOICES = 16


def fit_sampling(prompt_ids: Sequence[int], sampling: Sampling, vocab_size: int, max_model_len: int) -> Sampling:
    """Cuts `max_tokens` to what the context leaves.

    Raises:
        ContextOverflowError: it leaves nothing.
        EngineError: the prompt is empty or holds an id outside the vocabulary.
    """
    check_ids(prompt_ids, vocab_size, max_model_len)
    room = max_model_len - len(prompt_ids)
    return sampling if sampling.max_tokens <= room else dataclasses.replace(sampling, max_tokens=room)


def check_ids(ids: Sequence[int], vocab_size: int, max_model_len: int) -> None:
    """Refuses ids that are no prompt: see `fit_sampling`."""
    if not ids:
        raise EngineError("the prompt is empty: it needs at least one token")
    if min(ids) < 0 or max(ids) >= vocab_size:
        bad = next(i for i in ids if not 0 <= i < vocab_size)
        raise EngineError(f"token id {bad!r} is outside the vocabulary of {vocab_size} tokens")
    if len(ids) + 1 > max_model_len:
        raise ContextOverflowError(
            f"a prompt of {len(ids)} tokens and one to generate do not fit the context of {max_model_len} tokens"
        )


def check_choices(choices: Sequence[int], vocab_size: int) -> None:
    """Refuses next tokens that cannot be scored.

    Raises:
        EngineError: none or more than `MAX_CHOICES`, or an id outside the vocabulary.
    """
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise EngineError(f"1 to {MAX_CHOICES} next tokens can be scored at once, not {len(choices)}")
    if bad := [i for i in choices if not 0 <= i < vocab_size]:
        raise EngineError(f"token id {bad[0]!r} is outside the vocabulary of {vocab_size} tokens")
