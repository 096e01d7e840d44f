"""Builds the service as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from genprm.prms.base import PRM
from genprm.serve import native, shapes
from genprm.serve.errors import Refusal
from genprm.serve.gate import Gate, headers_of
from genprm.serve.outcomes import Outcomes
from genprm.serve.service import Service
from genprm.serve.settings import ServeConfig, keys_from_environment

_PLACES = 5
"""Most errors of a request body in one message."""
_QUOTED = 200


class App(FastAPI):
    """FastAPI with the gate as outermost layer, even outside its own error handling."""

    service: Service
    gate: Gate | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles one request; see ASGI."""
        if self.gate is None:
            await super().__call__(scope, receive, send)
        else:
            await self.gate(scope, receive, send)


def create_app(
    prm: PRM,
    config: ServeConfig | None = None,
    *,
    keys: Sequence[str] | None = None,
    votes: int = 1,
    log: Any = None,
    outcomes: Outcomes | None = None,
) -> App:
    """Creates an application that serves a judge. Call and use it in one event loop.

    Args:
        prm: the judge; it stays open.
        config: limits and other settings.
        keys: clients must send one of these; by default from the environment variable `GENPRM_API_KEYS`.
        votes: chains per solution.
        log: the open folder of a run (`genprm.runs.folder.RunFolder`) for all finished judgements.
        outcomes: compares answers with references; by default math-verify does.
    """
    config = config or ServeConfig()
    service = Service(prm, config, votes=votes, log=log, outcomes=outcomes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await service.close()

    from genprm import __version__

    app = App(
        title="genprm",
        version=__version__,
        summary="Judges every step of a solution.",
        lifespan=lifespan,
        docs_url=None,  # their pages load external scripts
        redoc_url=None,
    )
    app.service = app.state.service = service
    app.include_router(native.router)
    app.include_router(shapes.router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)
    if config.ui:
        from genprm.serve import page

        page.add_to(app, config)
    paths = frozenset(path for route in app.routes if (path := getattr(route, "path", "")) and "{" not in path)
    app.build_middleware_stack()
    app.gate = Gate(super(App, app).__call__, service, keys_from_environment() if keys is None else tuple(keys), paths)
    return app


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body, error.status, headers_of(error))


def _invalid(_: Request, error: Exception) -> Response:
    """Says what is wrong with a body, and where, without echoing its content."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    places = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in found[:_PLACES]]
    more = f" (and {len(found) - _PLACES} more)" if len(found) > _PLACES else ""
    status = 400 if any(one["type"] == "json_invalid" for one in found) else 422
    message = _clean("; ".join(places) + more)
    return _refused(_, Refusal(status, "invalid", message))


def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "method", 408: "slow", 413: "too_large"}.get(error.status_code, "http")
    response = _refused(_, Refusal(error.status_code, kind, _clean(str(error.detail))))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _bug(_: Request, error: Exception) -> Response:
    return _refused(_, Refusal(500, "internal", f"{type(error).__name__}; see the service's log"))


def _clean(text: str) -> str:
    """Replaces lone surrogates, which cannot be encoded."""
    return text[: _PLACES * _QUOTED].encode("utf-8", errors="replace").decode()
