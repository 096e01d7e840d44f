"""Checks common to all engines, so that a bad request fails alone and with the same message."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Coroutine, Sequence
from typing import TypedDict, TypeVar

from genprm.engines.base import Sampling
from genprm.engines.errors import ContextOverflowError, EngineError
from genprm.spent import Part, spent_in

MAX_CHOICES = 16

T = TypeVar("T")


class Connection(TypedDict, total=False):
    """Settings of the connection to servers."""

    api_key_env: str
    """Environment variable with the API key (OPENAI_API_KEY); if unset, none is sent."""
    timeout_s: float
    """Longest time for an answer (600)."""
    retries: int
    """Retries on the same server before another one is tried (2)."""
    patience_s: float
    """Seconds, at least 0, for which a request is retried, with back-off, after it first failed on all servers."""


def fit_sampling(prompt_ids: Sequence[int], sampling: Sampling, vocab_size: int, max_model_len: int) -> Sampling:
    """Limits `max_tokens` to the rest of the context.

    Raises:
        ContextOverflowError: it leaves nothing.
        EngineError: the prompt is empty, or it or `watch` has an id outside the vocabulary.
    """
    check_ids(prompt_ids, vocab_size, max_model_len)
    if sampling.watch:
        check_choices(sampling.watch, vocab_size)
    room = max_model_len - len(prompt_ids)
    return sampling if sampling.max_tokens <= room else dataclasses.replace(sampling, max_tokens=room)


def check_ids(ids: Sequence[int], vocab_size: int, max_model_len: int) -> None:
    """Checks a prompt's ids; raises as `fit_sampling`."""
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
    """Checks the next tokens to score.

    Raises:
        EngineError: none or more than `MAX_CHOICES`, or an id outside the vocabulary.
    """
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise EngineError(f"1 to {MAX_CHOICES} next tokens can be scored at once, not {len(choices)}")
    if bad := [i for i in choices if not 0 <= i < vocab_size]:
        raise EngineError(f"token id {bad[0]!r} is outside the vocabulary of {vocab_size} tokens")


OTHER_LOOP = (
    "this engine belongs to another event loop: open it in the one that uses it, or use genprm.Judge, which has its own"
)


class InFlight:
    """Calls in flight, which end when the engine is closed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # made in a thread: then it belongs to the loop that uses it first
            self._loop = asyncio.get_running_loop()
        self.closed = False

    async def run(self, work: Coroutine[object, object, T]) -> T:
        """Awaits some work.

        Raises:
            EngineError: the engine is or gets closed, or was used in another event loop before.
        """
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self.closed or self._loop is not loop:
            work.close()
            raise EngineError("the engine is closed" if self.closed else OTHER_LOOP)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with spent_in(Part.ENGINE):
                return await task
        except asyncio.CancelledError:
            # Either the caller was cancelled, and the task with it, or `close` cancelled only the task.
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
