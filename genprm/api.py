"""Judging from notebooks and scripts, without asynchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from genprm.concurrency import gather
from genprm.prms import PRM, PRMError, load_prm
from genprm.types import Judgement

T = TypeVar("T")
Row = tuple[str, Sequence[str]] | Mapping[str, Any]
"""A problem and the steps of its solution."""


async def judge(problem: str, steps: Sequence[str], *, model: str = "nano", seed: int = 0, **options: Any) -> Judgement:
    """Loads a judge, judges one solution, and closes the judge.

    Args:
        problem: the question.
        steps: the solution's steps in order.
        model: as for `load_prm`.
        seed: makes sampling repeatable.
        **options: of `load_prm`, such as `votes=8` or `sandbox="bubblewrap"`.

    Raises:
        PRMError: the model is unknown, or there is nothing to judge.
        EngineError: the engine does not load or cannot answer.
        SandboxError: no sandbox could be opened, or it broke.
    """
    prm = await load_prm(model, **options)
    try:
        return await prm.judge(problem, steps, seed=seed)
    finally:
        await prm.close()


def judge_sync(problem: str, steps: Sequence[str], *, model: str = "nano", seed: int = 0, **options: Any) -> Judgement:
    """Synchronous `judge`. Also works in a notebook, where an event loop is already running."""
    with Judge(model, **options) as handle:
        return handle(problem, steps, seed=seed)


class Judge:
    """A synchronous judge for notebooks and scripts; the model is loaded once.

        with genprm.Judge("GenPRM/GenPRM-7B", votes=8) as judge:
            judge(problem, steps).first_error
            judge.many([(problem, steps), ...])

    It runs an event loop in its own thread, so it works in a notebook, where a loop is already running, and from
    several threads at once.

    Args:
        model: as for `load_prm`.
        **options: fields of `genprm.config.JudgeConfig`.

    Raises:
        ConfigError: an option does not exist or is out of range.
        PRMError: the family is unknown, or an option does not apply to it.
        EngineError: the engine or the model does not load.
        SandboxError: no sandbox could be opened.
    """

    def __init__(self, model: str = "nano", **options: Any) -> None:
        self.model = model
        self._prm: PRM | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="genprm-judge", daemon=True)
        self._thread.start()
        try:
            self._prm = self._run(load_prm(model, **options))
        except BaseException:
            self.close()
            raise

    def __call__(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        """Judges one solution: see `PRM.judge`."""
        return self._run(self._open().judge(problem, steps, seed=seed))

    def many(self, rows: Iterable[Row], *, seed: int = 0, concurrency: int | None = None) -> list[Judgement]:
        """Judges many solutions concurrently; returns judgements in the order of the rows.

        Args:
            rows: pairs of a problem and its steps, or dicts with `problem` and `steps`.
            seed: makes sampling repeatable.
            concurrency: solutions in flight; by default enough to keep the engine busy.

        Raises:
            PRMError: a row has no steps or another form. The first error of any row ends the call.
        """
        prm = self._open()
        pairs = [_pair(row, number) for number, row in enumerate(rows)]

        async def work() -> list[Judgement]:
            room = asyncio.Semaphore(concurrency or max(1, prm.capacity))

            async def one(problem: str, steps: Sequence[str]) -> Judgement:
                async with room:
                    return await prm.judge(problem, steps, seed=seed)

            return await gather(one(problem, steps) for problem, steps in pairs)

        return self._run(work())

    def close(self) -> None:
        """Frees the model and the sandbox. Idempotent."""
        if self._loop.is_closed():
            return
        prm, self._prm = self._prm, None
        try:
            if prm is not None:
                self._run(prm.close())
        finally:
            self._run(self._loop.shutdown_default_executor())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Judge({self.model!r}{'' if self._prm else ', closed'})"

    def _open(self) -> PRM:
        if self._prm is None:
            raise PRMError(f"this judge is closed: Judge({self.model!r}) opens another")
        return self._prm

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C in a notebook also stops the work, not only the wait for it.
            future.cancel()
            raise


def _pair(row: Row, number: int) -> tuple[str, Sequence[str]]:
    given: object = row
    if isinstance(row, Mapping):
        missing = [name for name in ("problem", "steps") if name not in row]
        if missing:
            raise PRMError(f"row {number} has no {' and no '.join(missing)}, only {', '.join(map(repr, row))}")
        return row["problem"], row["steps"]
    if isinstance(given, (str, bytes)) or len(row) != 2:
        raise PRMError(f"row {number} is neither (problem, steps) nor a dict with both: {given!r:.60}")
    return row
