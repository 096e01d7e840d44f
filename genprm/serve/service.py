"""Shared by the endpoints: from requested solutions to response rows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from genprm.config import Keep
from genprm.data.inputs import InputRow
from genprm.prms.base import PRM
from genprm.runs.folder import RunError, RunFolder
from genprm.runs.rows import verify_row
from genprm.runs.verify import default_concurrency
from genprm.serve.desk import Desk, Flight, Task, Verdicts
from genprm.serve.errors import Refusal, Unfit, refusal_of
from genprm.serve.metrics import Metrics
from genprm.serve.outcomes import Outcome, Outcomes
from genprm.serve.schemas import Asked, FailedRow, Failure, Item, JudgedRow
from genprm.serve.settings import ServeConfig
from genprm.types import Judgement

logger = logging.getLogger("genprm.serve")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A requested solution."""

    row: InputRow
    seed: int = 0
    correct: bool | None = None
    """The client's value, if known."""
    unfit: Unfit | None = None
    """Why it is not judged; then `row` has no steps."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result for a solution."""

    row: InputRow
    outcome: Outcome
    judgement: Judgement | None
    """None if it failed, or if only the reward was requested and needs no judgement."""
    complete: bool
    reward: float | None
    seconds: float
    error: Refusal | None = None
    """Why it failed."""
    unfit: Unfit | None = None
    """Why it was not judged: its reward is 0."""

    @property
    def reason(self) -> str | None:
        """Why something is missing."""
        if self.error is not None:
            return self.error.message
        steps = () if self.judgement is None else self.judgement.steps
        return self.outcome.reason or next((step.reason for step in steps if step.score is None), None)


class Service:
    """One judge and the state shared by the endpoints.

    Args:
        prm: the judge; stays open.
        config: the limits.
        votes: chains per solution.
        log: stores finished judgements; None stores nothing.
        outcomes: compares answers.
    """

    def __init__(
        self,
        prm: PRM,
        config: ServeConfig,
        *,
        votes: int = 1,
        log: RunFolder | None = None,
        outcomes: Outcomes | None = None,
    ) -> None:
        self.prm = prm
        self.config = config
        self.metrics = Metrics()
        self.outcomes = outcomes or Outcomes(guards=config.guards)
        in_flight = config.max_in_flight or default_concurrency(prm.capacity, votes)
        self.desk = Desk(prm, in_flight=in_flight, queue=config.queue, votes=votes, metrics=self.metrics)
        self.started = int(time.time())
        self._log = log

    def wanted(self, items: Sequence[Item]) -> list[Wanted]:
        """Checks solutions against the limits.

        Raises:
            Refusal: one of them is not a solution, or there are too many.
        """
        if len(items) > self.config.max_items:
            raise Refusal(413, "too_many", f"{len(items)} solutions exceed max_items, {self.config.max_items}")
        found: list[Wanted] = []
        for index, item in enumerate(items):
            try:
                found.append(Wanted(item.row(self.config), item.seed, item.correct))
            except Unfit as unfit:
                found.append(unfit_solution(unfit, item.problem, item.id))
            except Refusal as refusal:
                if len(items) == 1:
                    raise
                raise Refusal(refusal.status, refusal.kind, f"items[{index}]: {refusal.message}") from None
        return found

    def until(self, timeout_s: float | None) -> float:
        """The deadline of a request, by the monotonic clock."""
        longest = self.config.deadline_s
        return time.monotonic() + (longest if timeout_s is None else min(timeout_s, longest))

    async def answers(
        self, wanted: Sequence[Wanted], timeout_s: float | None, *, reward_only: bool = False
    ) -> list[Answer]:
        """Judges solutions.

        Args:
            wanted: solutions within the limits.
            timeout_s: the client's deadline.
            reward_only: skip the judge if the reward does not depend on it.

        Raises:
            Refusal: the queue is full.
        """
        started = time.monotonic()
        until = self.until(timeout_s)
        async with AsyncExitStack() as stack:
            stack.enter_context(self.desk.request())
            tasks = [_task(one) for one in wanted]
            if reward_only:
                outcomes = await self._outcomes(wanted, until)
                tasks = [None if outcome.settled else task for task, outcome in zip(tasks, outcomes, strict=True)]
                flights = await stack.enter_async_context(self.desk.flights(tasks))
            else:
                flights = await stack.enter_async_context(self.desk.flights(tasks))
                outcomes = await self._outcomes(wanted, until)
            results = await asyncio.gather(*(self._result(flight, until, timeout_s) for flight in flights))
            found = zip(wanted, outcomes, results, strict=True)
            return [self._answer(one, outcome, result, started) for one, outcome, result in found]

    async def stream(self, asked: Asked, keep: Keep) -> AsyncGenerator[tuple[str, dict[str, object]]]:
        """Judges solutions and yields (event, data) pairs.

        First `open` with the steps of each solution, then `step` as they are judged, a `row` or an `error` for each
        solution, and finally `end`. Close it if it is not read to its end.

        Raises:
            Refusal: only before the first event.
        """
        from genprm.runs.rows import step_row

        wanted = self.wanted(asked.solutions)
        started = time.monotonic()
        until = self.until(asked.timeout_s)
        events: asyncio.Queue[tuple[str, dict[str, object]] | None] = asyncio.Queue()

        async def follow(number: int, one: Wanted, flight: Flight | None) -> None:
            seen = 0
            while flight is not None and await flight.more(seen, until, self.desk.stop):
                step = step_row(one.row.steps[seen], flight.steps[seen], keep).model_dump(mode="json")
                events.put_nowait(("step", {"item": number, "index": seen, **step}))
                seen += 1
            outcome = await self._outcome(one, until)
            answer = self._answer(one, outcome, await self._result(flight, until, asked.timeout_s), started)
            row = row_of(answer, keep)
            kind = "error" if isinstance(row, FailedRow) else "row"
            events.put_nowait((kind, {"item": number, **row.model_dump(mode="json")}))

        if len(wanted) == 1 and wanted[0].unfit is not None:
            raise wanted[0].unfit
        with self.desk.request():
            async with self.desk.flights([_task(one) for one in wanted]) as flights:
                yield "open", {"items": [{"id": one.row.id, "steps": list(one.row.steps)} for one in wanted]}
                pairs = zip(wanted, flights, strict=True)
                work = [asyncio.create_task(follow(number, *pair)) for number, pair in enumerate(pairs)]
                everything = asyncio.gather(*work)
                everything.add_done_callback(lambda _: events.put_nowait(None))
                try:
                    while (event := await events.get()) is not None:
                        yield event
                    await everything
                    yield "end", {}
                finally:
                    everything.cancel()
                    await asyncio.gather(*work, return_exceptions=True)

    async def _outcomes(self, wanted: Sequence[Wanted], until: float) -> list[Outcome]:
        return list(await asyncio.gather(*(self._outcome(one, until) for one in wanted)))

    async def _outcome(self, one: Wanted, until: float) -> Outcome:
        if one.unfit is not None:
            return Outcome(None, False, f"{one.unfit.kind}: {one.unfit.message}")
        return await self.outcomes.of(one.row, one.correct, max(0.1, until - time.monotonic()))

    async def _result(self, flight: Flight | None, until: float, timeout_s: float | None) -> Verdicts | Refusal | None:
        if flight is None:
            return None
        given = self.config.deadline_s if timeout_s is None else min(timeout_s, self.config.deadline_s)
        try:
            verdicts = await flight.result(until, self.desk.stop, f"{given:g} s had passed")
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                logger.exception("a judgement failed")
                return Refusal(500, "internal", f"{type(error).__name__}: {error}")
            return refusal
        if not verdicts.complete:
            self.metrics.partial.inc()
        return verdicts

    def _answer(self, one: Wanted, outcome: Outcome, result: Verdicts | Refusal | None, started: float) -> Answer:
        seconds = time.monotonic() - started
        if isinstance(result, Refusal):
            reward = outcome.reward(None, self.config.reward_weight)
            return Answer(one.row, outcome, None, False, reward, seconds, result)
        judgement = None if result is None else result.judgement
        reward = outcome.reward(judgement, self.config.reward_weight)
        complete = result is None or result.complete
        answer = Answer(one.row, outcome, judgement, complete, reward, seconds, unfit=one.unfit)
        if result is not None and result.complete:
            self._keep(answer)
        return answer

    def _keep(self, answer: Answer) -> None:
        if self._log is None or answer.row.key in self._log.done:
            return
        row = row_of(answer, Keep.FULL)
        assert isinstance(row, JudgedRow)
        try:
            self._log.add(row, answer.row.key)
        except RunError:
            # A full disk must not prevent the response.
            logger.exception("a judgement could not be stored")

    async def close(self) -> None:
        """Closes the service's own resources; the judge stays open."""
        await self.outcomes.close()


def row_of(answer: Answer, keep: Keep) -> JudgedRow | FailedRow:
    """The response row of one solution."""
    if answer.judgement is None:
        return failed_row(answer)
    row = verify_row(answer.row, answer.judgement, seconds=answer.seconds, keep=keep)
    return JudgedRow(
        **dict(row),
        complete=answer.complete,
        correct=answer.outcome.correct,
        violation=answer.outcome.violation,
        reward=answer.reward,
    )


def failed_row(answer: Answer) -> FailedRow:
    """The response row of a solution without a judgement."""
    why = answer.error or answer.unfit
    assert why is not None
    return FailedRow(id=answer.row.id, error=Failure(type=why.kind, message=why.message))


def unfit_solution(unfit: Unfit, problem: str, name: str | None = None) -> Wanted:
    """A solution that is not judged."""
    return Wanted(InputRow("", "request", 1, problem, (), name), unfit=unfit)


def _task(one: Wanted) -> Task | None:
    return None if one.unfit is not None else Task(one.row.problem, one.row.steps, one.seed)
