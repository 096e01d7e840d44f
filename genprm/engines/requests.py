"""What every engine checks before it takes a request, so that a bad one is refused alone and in the same words."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine, Sequence
from typing import TypedDict, TypeVar

from genprm.engines.base import Sampling
from genprm.engines.errors import ContextOverflowError, EngineError

MAX_CHOICES = 16

T = TypeVar("T")


class Connection(TypedDict, total=False):
    """How servers are asked."""

    api_key_env: str
    """Environment variable that holds the API key (OPENAI_API_KEY); unset, none is sent."""
    timeout_s: float
    """How long an answer may take (600)."""
    retries: int
    """How often a request is sent again to the same server before another one is asked (2)."""
    patience_s: float
    """Seconds, at least 0, for which a request is sent again, with back-off, after its first failure everywhere."""


def fit_sampling(prompt_ids: Sequence[int], sampling: Sampling, vocab_size: int, max_model_len: int) -> Sampling:
    """Cuts `max_tokens` to what the context leaves.

    Raises:
        ContextOverflowError: it leaves nothing.
        EngineError: the prompt is empty or holds an id outside the vocabulary, or such a token is to be watched.
    """
    check_ids(prompt_ids, vocab_size, max_model_len)
    if sampling.watch:
        check_choices(sampling.watch, vocab_size)
    room = max_model_len - len(prompt_ids)
    return sampling if sampling.max_tokens <= room else dataclasses.replace(sampling, max_tokens=room)


def check_ids(ids: Sequence[int], vocab_size: int, max_model_len: int) -> None:
    """Refuses ids that cannot be a prompt: see `fit_sampling`."""
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


class InFlight:
    """The calls that closing an engine must end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self.closed = False

    async def run(self, work: Coroutine[object, object, T]) -> T:
        """Awaits some work.

        Raises:
            EngineError: the engine is closed, or was closed meanwhile.
        """
        if self.closed:
            work.close()
            raise EngineError("the engine is closed")
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await task
        except asyncio.CancelledError:
            # Either our caller was cancelled, and the task with it, or `close` cancelled the task alone.
            current = asyncio.current_task()
            if self.closed and current is not None and not current.cancelling():
                raise EngineError("the engine was closed") from None
            raise

    async def close(self) -> None:
        """Ends all calls, and refuses new ones."""
        self.closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
