"""Coroutines side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TypeVar

T = TypeVar("T")


async def gather(work: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """The results of coroutines that run side by side, in order.

    When one fails, the others are cancelled and awaited, and what it raised is raised: the exception itself, not a
    group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        first = first_of(failed)
        raise first from first.__cause__
    return [task.result() for task in tasks]


def first_of(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of a group, of whatever depth."""
    first: BaseException = failed
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
