"""Puts the service together as an ASGI application."""

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
"""Most errors of a body that are named."""
_QUOTED = 200


class App(FastAPI):
    """FastAPI with the gate outside of everything else, also of its own handling of errors."""

    service: Service
    gate: Gate | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request; see ASGI."""
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
    """An application that serves a judge. To be called, and used, in one event loop.

    Args:
        prm: the judge; it stays open.
        config: limits and what else is configured.
        keys: that clients must use one of; by default those of the environment variable `GENPRM_API_KEYS`.
        votes: chains a solution.
        log: the open folder of a run (`genprm.runs.folder.RunFolder`) to keep every finished judgement in.
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
        docs_url=None,  # their pages load scripts from elsewhere
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
    """Says what is wrong with a body, and where; what it held is not sent back."""
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
    return _refused(_, Refusal(500, "internal", f"{type(error).__name__}; the log of the service says more"))


def _clean(text: str) -> str:
    """A text that can be sent: half of a surrogate pair cannot."""
    return text[: _PLACES * _QUOTED].encode("utf-8", errors="replace").decode()
