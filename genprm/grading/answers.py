r"""Is this answer the reference answer? By math-verify, in processes that can be killed.

    async with AnswerChecker() as checker:
        await checker.check("\\frac{1}{2}", "0.5")       # Outcome.EQUAL: the gold answer goes first

Comparing answers that a model wrote means running computer algebra on text that nobody trusts: `9^{9^{9^9}}` never
comes to an end, and no time limit inside the process can be relied on. So each comparison runs in a worker process that
is killed when its time is up. A time-out or an error is an outcome of its own and says nothing about the answer: never
count it as wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import OrderedDict
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Self

LIMIT_S = 5.0
"""Wall time of one comparison. An ordinary one takes milliseconds."""
LONGEST = 2_000
"""Characters of an answer that is still compared: longer ones are no answers but text."""
_START_S = 120.0
_REMEMBERED = 100_000


class AnswerError(RuntimeError):
    """No worker could be started: math-verify is missing or broken. Says nothing about any answer."""


class Outcome(StrEnum):
    """How an answer compares with the gold answer."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNPARSEABLE = "unparseable"
    """The answer is missing, or is nothing that can be read as one."""
    TIMEOUT = "timeout"
    """Nobody knows: the comparison did not end within the limit."""
    ERROR = "error"
    """Nobody knows: the comparison failed."""

    @property
    def known(self) -> bool:
        """Whether it says if the answer is right; an unparseable one is not."""
        return self not in (Outcome.TIMEOUT, Outcome.ERROR)


def boxed_answer(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` of a text, braces matched; None without one."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[begin:index].strip()
    return None


class AnswerChecker:
    """Compares answers in a few worker processes, which start when they are needed and are replaced when killed.

    Args:
        workers: processes; by default one a core, at most four.
        limit_s: wall time of one comparison, in seconds.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, workers: int | None = None, limit_s: float = LIMIT_S) -> None:
        count = workers if workers is not None else min(4, os.cpu_count() or 1)
        if count < 1 or limit_s <= 0:
            raise ValueError(f"workers must be at least 1 and limit_s above 0, not {count!r} and {limit_s!r}")
        self.limit_s = limit_s
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._all = [_Worker() for _ in range(count)]
        # The last in is the first out: a worker that is never needed is never started.
        for worker in reversed(self._all):
            self._idle.put_nowait(worker)
        self._known: OrderedDict[tuple[str, str], Outcome] = OrderedDict()

    async def check(self, gold: str, answer: str | None) -> Outcome:
        r"""Compares an answer with the gold answer. The order matters: math-verify is not symmetric.

        Args:
            gold: the reference answer, LaTeX or plain, without `\boxed`.
            answer: the answer; None (there is none) is unparseable.

        Raises:
            AnswerError: no worker starts.
        """
        if answer is None or not answer.strip() or len(answer) > LONGEST:
            return Outcome.UNPARSEABLE
        pair = (gold, answer)
        if (known := self._known.get(pair)) is not None:
            self._known.move_to_end(pair)
            return known
        worker = await self._idle.get()
        try:
            outcome = await worker.ask(gold, answer, self.limit_s)
        finally:
            self._idle.put_nowait(worker)
        if outcome.known:
            self._known[pair] = outcome
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return outcome

    async def sound(self, gold: str) -> Outcome:
        """How a gold answer compares with itself: a problem whose outcome is not `EQUAL` must not be used."""
        return await self.check(gold, gold)

    async def close(self) -> None:
        """Ends the workers. Idempotent."""
        for worker in self._all:
            await worker.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Worker:
    """One process, started when it is first asked."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def ask(self, gold: str, answer: str, limit_s: float) -> Outcome:
        try:
            process = self._process or await self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
            async with asyncio.timeout(limit_s):
                reply = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            await self.stop()
            return Outcome.TIMEOUT
        except (BrokenPipeError, ConnectionResetError):
            reply = ""
        except BaseException:
            # Cancelled, most likely: its reply must not be taken for the answer to another question.
            await self.stop()
            raise
        if not reply:  # it died: of the memory limit, or of a stack that overflowed
            await self.stop()
            return Outcome.ERROR
        return Outcome(reply.partition(" ")[0])

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "genprm.grading.worker", stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(_START_S):
                ready = await process.stdout.readline()
        except TimeoutError:
            ready = b""
        if ready.strip() != b"ready":
            await self.stop()
            said = (await process.stderr.read()).decode(errors="replace")
            hint = "pip install 'genprm[answers]'" if "math_verify" in said else said.strip()[-500:]
            raise AnswerError(f"the process that compares answers does not start: {hint}")
        return process

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        # The transport of a killed process closes in a later turn of the loop; tests count open ones.
        if process.stdin is not None:
            process.stdin.close()
