"""The service's HTTP side: authentication and routes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..guest import frames
from ..limits import Limits
from ..remote import PATH, VERSION, parse_message
from ..results import SandboxError
from . import fusion
from .connection import Connection
from .pools import Client
from .service import Service

OPEN_S = 20.0
"""Time limit for a new client's first message."""
MAX_BODY = 32 << 20


class Denied(Exception):
    """The request is refused."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status, self.reason = status, reason


def create_app(service: Service) -> Starlette:
    """Creates the application of a started service."""

    async def sandbox(socket: WebSocket) -> None:
        try:
            client = _admit(service, socket)
        except Denied as denied:
            await socket.send_denial_response(_denial(service, denied))
            return
        await socket.accept()
        with service.connected(client):
            await _converse(service, client, socket)

    async def run_code(request: Request) -> Response:
        try:
            client = _admit(service, request)
            body = await _body(request)
        except Denied as denied:
            return _denial(service, denied)
        with service.connected(client):
            return JSONResponse(await fusion.run_code(service, client, body))

    async def metrics(request: Request) -> Response:
        try:
            _admit(service, request, draining_too=True)
        except Denied as denied:
            return _denial(service, denied)
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        if service.draining or not service.ready:
            return PlainTextResponse("draining\n" if service.draining else "starting\n", 503)
        return PlainTextResponse("ready\n")

    routes = [
        WebSocketRoute(PATH, sandbox),
        Route("/run_code", run_code, methods=["POST"]),
        Route("/metrics", metrics),
        Route("/health", health),
        Route("/ready", ready),
    ]
    return Starlette(routes=routes)


def _admit(service: Service, connection: HTTPConnection, *, draining_too: bool = False) -> Client:
    """Identifies the client of a request. Raises Denied."""
    if not service.settings.tokens and "origin" in connection.headers:
        # Browsers send it: any page that a user opens could reach a service on the same machine.
        raise Denied(403, "origin", "a service without tokens does not answer pages in a browser")
    client = service.client_of(_token(connection))
    if client is None:
        raise Denied(401, "token", "send a token: Authorization: Bearer TOKEN")
    if service.draining and not draining_too:
        raise Denied(503, "draining", "the service is shutting down")
    return client


def _token(connection: HTTPConnection) -> str:
    """The token of a request; empty if it has none."""
    kind, _, value = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        # HTTP libraries send this for http://:TOKEN@host, for trainers that take only a URL.
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2]
    return ""


def _denial(service: Service, denied: Denied) -> Response:
    service.metrics.refused.labels(denied.reason).inc()
    headers = {"WWW-Authenticate": "Bearer"} if denied.status == 401 else {}
    if denied.status == 503:
        headers["Retry-After"] = "5"
    return PlainTextResponse(f"{denied}\n", denied.status, headers)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Denied(413, "too_large", f"the body exceeds {MAX_BODY >> 20} MiB")
    return bytes(body)


async def _converse(service: Service, client: Client, socket: WebSocket) -> None:
    """Serves a lane until it closes."""

    async def send(message: dict[str, object]) -> None:
        await socket.send_bytes(frames.encode(message))

    code = 1000
    with contextlib.suppress(WebSocketDisconnect):
        try:
            async with asyncio.timeout(OPEN_S):
                limits = _wanted(service, parse_message(await socket.receive_bytes()))
            async with service.pools.use(limits) as box:
                hello = box.hello
                assert hello is not None
                await send(
                    {
                        "hello": VERSION,
                        "isolation": hello.isolation,
                        "landlock": hello.landlock,
                        "python": hello.python,
                        "lanes": service.client_lanes,
                        "load": service.load,
                        "note": f"{box.backend}: {box.note}",
                    }
                )
                connection = Connection(service, client, box, send)
                try:
                    while not (service.draining and not connection.sessions):
                        await connection.answer(parse_message(await socket.receive_bytes()))
                    code = 1001
                finally:
                    await connection.end()
        except Denied as denied:
            service.metrics.refused.labels(denied.reason).inc()
            await send({"refused": str(denied)})
        except SandboxError as error:
            await send({"broken": str(error)})
        except (frames.FrameError, TimeoutError, KeyError) as error:
            service.metrics.refused.labels("protocol").inc()
            why = frames.encodable(str(error)) or type(error).__name__
            await send({"refused": f"the message does not follow the protocol: {why}"})
            code = 1002
        await socket.close(code)


def _wanted(service: Service, message: dict[str, object]) -> Limits:
    """Reads the limits from a client's first message. Raises Denied, FrameError."""
    if frames.text(message, "op") != "open":
        raise frames.FrameError("a lane begins with 'open'")
    if (version := frames.integer(message, "version")) != VERSION:
        raise Denied(400, "version", f"the service speaks version {VERSION} of the protocol, the client {version}")
    wanted = message.get("limits")
    if not isinstance(wanted, dict):
        raise frames.FrameError("'open' names no limits")
    given: dict[str, object] = {str(key): value for key, value in wanted.items()}
    try:
        limits = Limits(
            wall_s=frames.number(given, "wall_s"),
            cpu_s=frames.number(given, "cpu_s"),
            memory_mb=frames.integer(given, "memory_mb"),
            output_kb=frames.integer(given, "output_kb"),
        )
    except frames.FrameError:
        raise
    except ValueError as error:
        raise Denied(400, "limits", str(error)) from None
    if (reason := service.settings.check_limits(limits)) is not None:
        raise Denied(400, "limits", reason)
    return limits
