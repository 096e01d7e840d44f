"""The outermost layer: checks key and body size, logs and counts every request."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from genprm.serve.errors import Refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from genprm.serve.service import Service

logger = logging.getLogger("genprm.serve.access")

OPEN = frozenset({"/health", "/ready"})
"""Paths that need no key: load balancers, for example, often have none."""
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "testserver"})
_BODY_S = 60.0
"""Time limit for the arrival of a whole body, in seconds."""
_DROP_S, _DROP_BYTES = 2.0, 64 << 20
"""Time (seconds) and bytes for which a refused body is still read."""


class Gate:
    """The outermost layer of the application.

    Args:
        app: the inner application.
        service: provides limits and metrics.
        keys: the accepted keys; empty means no authentication.
        paths: paths with their own metrics label; others are counted together, so that clients cannot create labels.
        body_s: time limit for the arrival of a whole body, in seconds; a slow sender would hold its connection forever.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        keys: Sequence[str],
        paths: frozenset[str],
        *,
        body_s: float = _BODY_S,
    ) -> None:
        self._app = app
        self._service = service
        self._keys = [_digest(key.encode("utf-8", "surrogateescape")) for key in keys]
        self._paths = paths
        self._body_s = body_s
        self._limit = round(service.config.max_body_mb * 2**20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, number = time.monotonic(), 500, uuid.uuid4().hex[:12]
        begun = False

        async def reply(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                own = [(b"x-request-id", number.encode()), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, self._limited(scope, receive), reply)
        except Refusal as refusal:
            if begun:
                raise
            if refusal.status == 413:
                await _drop(receive)
            await respond(refusal, scope, receive, reply)
        finally:
            self._note(scope, status, number, time.monotonic() - started)

    def _check(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        # A web page in a browser on this machine may reach a local service under its own host name (DNS rebinding).
        host = headers.get(b"host", "").rsplit(":", 1)[0] if headers.get(b"host", "")[-1:] != "]" else headers[b"host"]
        if self._service.config.local and not self._keys and host not in {*_LOCAL_HOSTS, self._service.config.host}:
            raise Refusal(421, "host", f"this service answers only to localhost, not to {host!r}")
        if self._keys and scope["path"] not in OPEN and not self._page(scope) and not self._known(headers):
            raise Refusal(401, "key", "send a key: Authorization: Bearer KEY, or http://:KEY@host in the URL")
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length[:15]) > self._limit:
            raise self._too_large()

    def _page(self, scope: Scope) -> bool:
        """Whether the request is for the page itself, which contains no data."""
        path: str = scope["path"]
        return (
            self._service.config.ui
            and scope["method"] in ("GET", "HEAD")
            and (path == "/" or path.startswith("/page/"))
        )

    def _known(self, headers: dict[bytes, str]) -> bool:
        # Headers are read as Latin-1, which gives back the bytes that were sent.
        given = _digest(_key_of(headers).encode("latin-1"))
        # Compares all keys in constant time, so that timing reveals nothing.
        return sum([hmac.compare_digest(given, key) for key in self._keys]) > 0

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        got, ended = 0, scope["method"] in ("GET", "HEAD")
        until = time.monotonic() + self._body_s

        async def limited() -> Message:
            nonlocal got, ended
            if ended:
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                # FastAPI passes no other exception through while it reads a body.
                raise HTTPException(408, f"the body did not arrive within {self._body_s:g} s") from None
            got += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if got > self._limit:
                await _drop(receive)
                raise HTTPException(413, self._too_large().message)
            return message

        return limited

    def _too_large(self) -> Refusal:
        return Refusal(413, "too_large", f"the body exceeds max_body_mb, {self._service.config.max_body_mb:g} MiB")

    def _note(self, scope: Scope, status: int, number: str, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._service.metrics.requests.labels(path, str(status)).inc()
        self._service.metrics.request_s.labels(path).observe(seconds)
        client: Any = scope.get("client")
        logger.info(
            "request",
            extra={
                "request": {
                    "id": number,
                    "client": client[0] if client else None,
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "seconds": round(seconds, 4),
                }
            },
        )


async def _drop(receive: Receive) -> None:
    """Keeps reading for a while: a client that is cut off while sending would not read the error."""
    got = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DROP_S):
            while got < _DROP_BYTES:
                message = await receive()
                got += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


async def respond(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends an error."""
    await JSONResponse(refusal.body, refusal.status, headers_of(refusal))(scope, receive, send)


def headers_of(refusal: Refusal) -> dict[str, str]:
    """The headers of an error."""
    headers: dict[str, str] = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    return headers


def _key_of(headers: dict[bytes, str]) -> str:
    """The key in a request; empty without one."""
    kind, _, value = headers.get(b"authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        # HTTP libraries send this for http://:KEY@host, for trainers that take only a URL.
        try:
            return base64.b64decode(value.strip(), validate=True).decode("latin-1").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return headers.get(b"x-api-key", "")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class JsonLines(logging.Formatter):
    """Log lines as JSON objects."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats time, level, message and extra fields."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "request", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
