"""Batches single requests of similar length."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Collects requests that arrive during a batch into the next batches.

    A batch is the oldest request and those closest to it in length: little padding, and no request waits forever.

    Args:
        work: answers a batch, in order. Its exception is raised for every request of the batch.
        length: returns the tokens of a request.
        tokens: most tokens of a batch, including padding; a longer request runs alone.
    """

    def __init__(self, work: Callable[[list[Q]], Awaitable[list[A]]], length: Callable[[Q], int], tokens: int) -> None:
        self._work = work
        self._length = length
        self._tokens = tokens
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, request: Q) -> A:
        """Waits for the answer to a request. Cancelling it takes the request out of the queue."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        # Callers started together ask one after another: let all of them ask first.
        await asyncio.sleep(0)
        while batch := self._take():
            try:
                answers = await self._work([request for request, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _take(self) -> list[tuple[Q, asyncio.Future[A]]]:
        self._waiting = [item for item in self._waiting if not item[1].done()]
        if not self._waiting:
            return []
        anchor = self._length(self._waiting[0][0])
        nearest = sorted(range(len(self._waiting)), key=lambda i: abs(self._length(self._waiting[i][0]) - anchor))
        taken: set[int] = set()
        width = 0
        for index in nearest:
            width = max(width, self._length(self._waiting[index][0]))
            if taken and width * (len(taken) + 1) > self._tokens:
                break
            taken.add(index)
        batch = [self._waiting[index] for index in sorted(taken)]
        self._waiting = [item for index, item in enumerate(self._waiting) if index not in taken]
        return batch
