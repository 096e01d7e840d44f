"""Concurrent coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TypeVar

T = TypeVar("T")


async def gather(work: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """Runs coroutines concurrently and returns their results in order.

    When one fails, the others are cancelled and awaited, and its exception is raised (not a group).
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        first = first_of(failed)
        raise first from first.__cause__
    return [task.result() for task in tasks]


def first_of(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of a group, at any depth."""
    first: BaseException = failed
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
