"""The queue in front of the judge: bounded, with deadlines, and one judgement for equal concurrent requests."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from genprm.prms.base import PRM, judge_watched
from genprm.serve.errors import Refusal
from genprm.serve.metrics import Metrics
from genprm.types import DEFAULT_THRESHOLD, Judgement, StepJudgement, Tokens

_LONGEST_RETRY_S = 60
_MEMORY = 0.9
"""Weight of the past in the moving average of judgement times."""


@dataclass(frozen=True, slots=True)
class Task:
    """A solution to judge."""

    problem: str
    steps: tuple[str, ...]
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Verdicts:
    """A judgement, and whether it is complete."""

    judgement: Judgement
    complete: bool


class Flight:
    """One solution being judged, shared by all requests that wait for it."""

    def __init__(self, task: Task, threshold: float) -> None:
        self.task = task
        self.threshold = threshold
        self.waiting = 0
        """Number of requests that wait for it."""
        self.steps: list[StepJudgement] = []
        """Steps judged so far."""
        self.work: asyncio.Task[Judgement] | None = None
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(self, index: int, step: StepJudgement) -> None:
        """Records one more judged step."""
        del index
        self.steps.append(step)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        if not changed.done():
            changed.set_result(None)

    async def more(self, seen: int, until: float, stop: asyncio.Future[None]) -> bool:
        """Waits for a step after the first `seen`; returns False if none comes before the deadline."""
        assert self.work is not None
        while len(self.steps) <= seen:
            if self.work.done():
                return False
            left = until - time.monotonic()
            if left <= 0 or stop.done():
                return False
            await asyncio.wait({self.work, self._changed, stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return True

    async def result(self, until: float, stop: asyncio.Future[None], why: str) -> Verdicts:
        """The judgement, or its finished part at the deadline.

        Args:
            until: the deadline, by the monotonic clock.
            stop: done when the service stops waiting.
            why: the reason for steps without a judgement at the deadline.

        Raises what `PRM.judge` raises.
        """
        assert self.work is not None
        left = max(0.0, until - time.monotonic())
        if not self.work.done():
            await asyncio.wait({self.work, stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if self.work.done():
            return Verdicts(self.work.result(), complete=True)
        why = "the service is shutting down" if stop.done() else why
        missing = StepJudgement(None, None, None, (), reason=f"not judged: {why}")
        steps = (*self.steps, *[missing] * (len(self.task.steps) - len(self.steps)))
        spent = sum((chain.tokens for step in self.steps for chain in step.chains), Tokens())
        return Verdicts(Judgement(steps, self.threshold, spent), complete=False)


class Desk:
    """Passes solutions to a judge.

    Args:
        prm: the judge.
        in_flight: solutions judged at once.
        queue: solutions that may wait.
        votes: chains per solution, for the metric of chains in flight.
        metrics: the counters.
    """

    def __init__(self, prm: PRM, *, in_flight: int, queue: int, votes: int, metrics: Metrics) -> None:
        self._prm = prm
        self._in_flight = in_flight
        self._queue = queue
        self._votes = votes
        self._metrics = metrics
        self._threshold: float = getattr(prm, "threshold", DEFAULT_THRESHOLD)
        self._flights: dict[Task, Flight] = {}
        self._waiting: OrderedDict[Flight, asyncio.Future[None]] = OrderedDict()
        self._running: set[Flight] = set()
        self._requests = 0
        self._average_s = 1.0
        self.stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all requests must stop waiting."""
        self.draining = False
        """Whether new solutions are refused because the service is shutting down."""
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Generator[None]:
        """An accepted request, for which `drain` waits.

        Raises:
            Refusal: the service is shutting down.
        """
        if self.draining:
            raise Refusal(503, "stopping", "the service is shutting down", 5)
        self._requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            self._rest()

    @asynccontextmanager
    async def flights(self, tasks: Sequence[Task | None]) -> AsyncGenerator[list[Flight | None]]:
        """The flights of some solutions for the duration of a block; leaving it abandons them.

        A solution that is already being judged for another request is not judged again. None stays None.

        Raises:
            Refusal: the queue has no room for all of them.
        """
        found = self._board(tasks)
        try:
            yield found
        finally:
            for flight in found:
                if flight is not None:
                    self._leave(flight)

    def _board(self, tasks: Sequence[Task | None]) -> list[Flight | None]:
        new = len({task for task in tasks if task is not None and task not in self._flights})
        free = max(0, self._in_flight - len(self._running) - len(self._waiting))
        if new > self._queue + self._in_flight:
            most = self._queue + self._in_flight
            raise Refusal(413, "too_many", f"{new} solutions exceed the capacity of the service ({most})")
        if len(self._waiting) + new > self._queue + free:
            self._metrics.refused.inc()
            # Room is certain after the whole queue has moved; usually half of it is enough.
            wait = len(self._waiting) * self._average_s / self._in_flight / 2
            retry = min(_LONGEST_RETRY_S, max(1, round(wait)))
            raise Refusal(429, "busy", f"{len(self._waiting)} solutions are waiting; the limit is {self._queue}", retry)
        found: list[Flight | None] = []
        for task in tasks:
            if task is None:
                found.append(None)
                continue
            flight = self._flights.get(task)
            if flight is None:
                flight = self._flights[task] = Flight(task, self._threshold)
                self._idle.clear()
                turn = self._waiting[flight] = asyncio.get_running_loop().create_future()
                flight.work = asyncio.create_task(self._judge(flight, turn))
                # Not in the task itself, which may be cancelled before it starts.
                flight.work.add_done_callback(lambda work, flight=flight: self._end(flight, work))
            else:
                self._metrics.shared.inc()
            flight.waiting += 1
            found.append(flight)
        self._next()
        return found

    def _leave(self, flight: Flight) -> None:
        flight.waiting -= 1
        if flight.waiting == 0 and flight.work is not None and not flight.work.done():
            # No request waits for it any more: later requests start a new flight.
            self._flights.pop(flight.task, None)
            self._metrics.solutions.labels("abandoned").inc()
            flight.work.cancel()

    def _next(self) -> None:
        while self._waiting and len(self._running) < self._in_flight:
            flight, turn = self._waiting.popitem(last=False)
            if not turn.done():  # else it was abandoned, and ends soon
                self._running.add(flight)
                turn.set_result(None)
        self._metrics.queue.set(len(self._waiting))
        self._metrics.in_flight.set(len(self._running))
        self._metrics.chains.set(len(self._running) * self._votes)

    async def _judge(self, flight: Flight, turn: asyncio.Future[None]) -> Judgement:
        task, metrics, entered = flight.task, self._metrics, time.monotonic()
        await turn
        started = time.monotonic()
        metrics.wait_s.observe(started - entered)
        judgement = await judge_watched(self._prm, task.problem, task.steps, flight.note, seed=task.seed)
        took = time.monotonic() - started
        metrics.judge_s.observe(took)
        metrics.judged(judgement)
        self._average_s = _MEMORY * self._average_s + (1 - _MEMORY) * took
        return judgement

    def _end(self, flight: Flight, work: asyncio.Task[Judgement]) -> None:
        self._waiting.pop(flight, None)
        self._running.discard(flight)
        if self._flights.get(flight.task) is flight:
            del self._flights[flight.task]
        # Retrieving the exception marks it as handled, even if no request waits for it any more.
        if not work.cancelled() and work.exception() is not None:
            self._metrics.solutions.labels("failed").inc()
        self._next()
        self._rest()

    def _rest(self) -> None:
        if not self._flights and not self._requests:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Refuses new solutions, waits for accepted ones, and after `seconds` answers with partial results."""
        self.draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        if not self.stop.done():
            self.stop.set_result(None)
