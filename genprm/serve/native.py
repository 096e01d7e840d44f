"""The service's own endpoints: judge, critique, score, models, health, ready, metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from genprm.data.thoughts import THINK_END
from genprm.search.refine import critique_of
from genprm.serve.errors import Refusal
from genprm.serve.schemas import (
    Asked,
    CritiqueAsked,
    CritiqueRow,
    CritiqueRows,
    ErrorBody,
    FailedRow,
    JudgeAsked,
    JudgedRow,
    JudgedRows,
    ScoreRow,
    ScoreRows,
)
from genprm.serve.service import Answer, Service, failed_row, row_of
from genprm.step_tokens import step_spans

HEARTBEAT_S = 10.0
"""Longest silence of a stream, in seconds."""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The body is not JSON.",
        401: "A key is missing or wrong.",
        413: "The body or the number of solutions exceeds the limit.",
        422: "A field is missing, unknown or out of range, or a solution exceeds a limit.",
        429: "The queue is full; Retry-After says when to try again.",
        503: "The engine or the sandbox is down, or the service is shutting down.",
    }.items()
}
STREAMED: dict[str, Any] = {
    "description": "A row, or rows; with `stream`, server-sent events.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}

router = APIRouter()
T = TypeVar("T")


def service_of(request: Request) -> Service:
    """The application's service."""
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(service_of)]


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits some work, and cancels it if the client disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "gone", "the client disconnected")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answers(request: Request, service: Service, asked: Asked) -> list[Answer]:
    wanted = service.wanted(asked.solutions)
    return await unless_gone(request, service.answers(wanted, asked.timeout_s))


@router.post("/v1/judge", responses={**ERRORS, 200: STREAMED}, summary="Judge every step of one solution or many")
async def judge(request: Request, asked: JudgeAsked, service: Serving) -> JudgedRow | JudgedRows:
    """One row as `genprm verify` writes it, or `{"rows": [...]}` for `items`.

    With `stream`, server-sent events: `open` with the steps of each solution, `step` as each step is judged, `row` (or
    `error`) for each solution, then `end`.
    """
    if asked.stream:
        # Before the stream begins, so that a refusal still sets the HTTP status.
        events = service.stream(asked, asked.keep)
        first = await anext(events)
        stream = StreamingResponse(_sse(first, events), media_type="text/event-stream")
        stream.headers["Cache-Control"] = "no-store"
        stream.headers["X-Accel-Buffering"] = "no"
        return stream  # pyright: ignore[reportReturnType]
    rows = [row_of(answer, asked.keep) for answer in await _answers(request, service, asked)]
    if asked.items is not None:
        return JudgedRows(rows=rows)
    return _single(rows[0])


@router.post("/v1/score", responses=ERRORS, summary="Scores and reward only")
async def score(request: Request, asked: Asked, service: Serving) -> ScoreRow | ScoreRows:
    """Numbers for trainers. `reward` is gated by the answer if `answer` or `correct` is given.

    A solution that is unfinished, blank or beyond a limit is not judged: `violation` says why, and its reward is 0.
    """
    answers = await _answers(request, service, asked)
    rows = [_score(answer, item.solution) for answer, item in zip(answers, asked.solutions, strict=True)]
    return ScoreRows(rows=rows) if asked.items is not None else _single(rows[0])


@router.post("/v1/critique", responses=ERRORS, summary="What is wrong, as a message for the policy")
async def critique(request: Request, asked: CritiqueAsked, service: Serving) -> CritiqueRow | CritiqueRows:
    """`message` is the user turn to append to the policy's conversation."""
    rows = [_critique(answer, asked) for answer in await _answers(request, service, asked)]
    return CritiqueRows(rows=rows) if asked.items is not None else _single(rows[0])


@router.get("/v1/models", summary="The judge")
async def models(service: Serving) -> dict[str, Any]:
    """The model list of OpenAI's API, with facts about the judge."""
    facts = service.prm.facts
    about = {"id": service.prm.name, "object": "model", "created": service.started, "owned_by": "genprm"}
    return {"object": "list", "data": [{**about, "facts": facts}]}


@router.get("/health", summary="Is the process alive?")
async def health() -> dict[str, str]:
    """Answers as long as the event loop runs."""
    return {"status": "ok"}


@router.get("/ready", responses={503: ERRORS[503]}, summary="Does it take requests?")
async def ready(service: Serving) -> dict[str, str]:
    """503 once the service is shutting down."""
    if service.desk.draining:
        raise Refusal(503, "stopping", "the service is shutting down", 5)
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
async def metrics(service: Serving) -> Response:
    """Metrics in Prometheus's text format."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


RowT = TypeVar("RowT", JudgedRow, ScoreRow, CritiqueRow)


def _single(row: RowT | FailedRow) -> RowT:
    if isinstance(row, FailedRow):
        status = {"internal": 500, "engine": 503, "sandbox": 503, "stopping": 503}.get(row.error.type, 422)
        raise Refusal(status, row.error.type, row.error.message, 5 if status == 503 else None)
    return row


def _score(answer: Answer, solution: str | None) -> ScoreRow | FailedRow:
    if answer.unfit is not None:
        return ScoreRow(
            id=answer.row.id,
            scores=[],
            spans=None if solution is None else [],
            first_error=None,
            solution=None,
            correct=None,
            violation=answer.outcome.violation,
            reward=answer.reward,
            complete=True,
            reason=answer.unfit.message,
        )
    if answer.judgement is None:
        return failed_row(answer)
    judgement = answer.judgement
    spans = None
    if solution is not None:
        # Thoughts are not judged, but may contain text that looks like a step.
        begin = solution.rfind(THINK_END) + len(THINK_END) if answer.row.thoughts is not None else 0
        spans = [[span.start, span.end] for span in step_spans(solution, answer.row.steps, begin=begin)]
    return ScoreRow(
        id=answer.row.id,
        scores=judgement.scores,
        spans=spans,
        first_error=judgement.first_error,
        solution=None if judgement.solution is None else judgement.solution.score,
        correct=answer.outcome.correct,
        violation=answer.outcome.violation,
        reward=answer.reward,
        complete=answer.complete,
        reason=answer.reason,
    )


def _critique(answer: Answer, asked: CritiqueAsked) -> CritiqueRow | FailedRow:
    if answer.judgement is None:
        return failed_row(answer)
    found = critique_of(answer.row.steps, answer.judgement, asked.style)
    return CritiqueRow(
        id=answer.row.id,
        accepted=found.accepted and answer.complete,
        complete=answer.complete,
        step=found.step,
        analysis=found.analysis,
        message=found.message,
        scores=answer.judgement.scores,
    )


async def _sse(
    first: tuple[str, dict[str, object]], events: AsyncGenerator[tuple[str, dict[str, object]]]
) -> AsyncGenerator[str]:
    event: tuple[str, dict[str, object]] | None = first
    following: asyncio.Task[tuple[str, dict[str, object]]] | None = None
    try:
        while event is not None:
            kind, data = event
            yield f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
            following = asyncio.ensure_future(anext(events))  # pyright: ignore[reportArgumentType]
            while not following.done():
                await asyncio.wait({following}, timeout=HEARTBEAT_S)
                if not following.done():
                    yield ": still judging\n\n"
            try:
                event = following.result()
            except StopAsyncIteration:
                event = None
    finally:
        if following is not None and not following.done():
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()
