r"""Compares answers with reference answers by math-verify, in processes that can be killed.

    async with AnswerChecker() as checker:
        await checker.check("\\frac{1}{2}", "0.5")       # Outcome.EQUAL: the gold answer goes first

Comparing a model's answers means running computer algebra on untrusted text: `9^{9^{9^9}}` never finishes, and time
limits inside the process are unreliable. So each comparison runs in a worker process that is killed when its time is
up. A time-out or an error is a separate outcome. It says nothing about the answer; never count it as wrong.
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

from genprm.grading.normal import decided, normalised

LIMIT_S = 5.0
"""Default wall time of one comparison, in seconds. Most take milliseconds."""
LONGEST = 2_000
"""Maximum length of an answer in characters; longer texts are not answers."""
_START_S = 120.0
_REMEMBERED, _REMEMBERED_CHARS = 100_000, 200
"""Pairs that are remembered, and the longest: together at most about 40 MB."""


class AnswerError(RuntimeError):
    """No worker process could be started: math-verify is missing or broken."""


class Outcome(StrEnum):
    """How an answer compares with the gold answer."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNPARSEABLE = "unparseable"
    """The answer is missing or cannot be read."""
    TIMEOUT = "timeout"
    """Unknown: the comparison did not finish within the limit."""
    ERROR = "error"
    """Unknown: the comparison failed."""

    @property
    def known(self) -> bool:
        """Whether the comparison decided; an unparseable answer is wrong."""
        return self not in (Outcome.TIMEOUT, Outcome.ERROR)


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` of a text, with matched braces; None without one."""
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
    """Compares answers in a few worker processes, started on demand and replaced when killed.

    Args:
        workers: number of processes; by default one per core, at most four.
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
        # Last in, first out: workers that are not needed never start.
        for worker in reversed(self._all):
            self._idle.put_nowait(worker)
        self._known: OrderedDict[tuple[str, str], Outcome] = OrderedDict()

    async def check(self, gold: str, answer: str | None) -> Outcome:
        r"""Compares an answer with the gold answer; `docs/answers.md` states the rules.

        The gold answer goes first: math-verify is not symmetric.

        Args:
            gold: the reference answer, LaTeX or plain, without `\boxed`.
            answer: the answer; None is unparseable.

        Raises:
            AnswerError: no worker process starts.
        """
        if answer is None or not answer.strip() or len(answer) > LONGEST:
            return Outcome.UNPARSEABLE
        left, right = normalised(gold), normalised(answer)
        known = decided(left, right)
        if known is not None:
            return Outcome.EQUAL if known else Outcome.DIFFERENT
        pair = (left.text, right.text)
        if (before := self._known.get(pair)) is not None:
            self._known.move_to_end(pair)
            return before
        worker = await self._idle.get()
        try:
            outcome = await worker.ask(*pair, self.limit_s)
        finally:
            self._idle.put_nowait(worker)
        if outcome.known and len(pair[0]) + len(pair[1]) <= _REMEMBERED_CHARS:
            self._known[pair] = outcome
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return outcome

    async def sound(self, gold: str) -> Outcome:
        """Compares a gold answer with itself: do not use a problem unless this is `EQUAL`."""
        return await self.check(gold, gold)

    async def close(self) -> None:
        """Stops the workers. Idempotent."""
        for worker in self._all:
            await worker.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Worker:
    """One process, started by the first question."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None

    async def ask(self, gold: str, answer: str, limit_s: float) -> Outcome:
        process = self._process or await self._started()
        try:
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
            # Usually cancelled: the pending reply must not answer the next question.
            await self.stop()
            raise
        if not reply:  # it died: memory limit or stack overflow
            await self.stop()
            return Outcome.ERROR
        return Outcome(reply.partition(" ")[0])

    async def _started(self) -> asyncio.subprocess.Process:
        """Starts the process. It goes on starting if the question is cancelled: the next one may be as short."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(self._ready)
        return await asyncio.shield(self._starting)

    def _ready(self, start: asyncio.Task[asyncio.subprocess.Process]) -> None:
        self._starting = None
        if not start.cancelled():
            start.exception()  # marks it as handled, even if nobody waits any more

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "genprm.grading.worker", stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(_START_S):
                ready = await process.stdout.readline()
        except TimeoutError:
            ready = b""
        except BaseException:
            await _end(process)
            raise
        if ready.strip() != b"ready":
            await _end(process)
            said = (await process.stderr.read()).decode(errors="replace")
            hint = "pip install math-verify" if "math_verify" in said else said.strip()[-500:]
            raise AnswerError(f"the process that compares answers did not start: {hint}")
        self._process = process
        return process

    async def stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    # Close now: the transport of a killed process closes only in a later turn of the loop.
    if process.stdin is not None:
        process.stdin.close()
