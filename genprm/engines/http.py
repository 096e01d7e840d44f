"""Requests to model servers: JSON over HTTP, sent again where a failure may pass.

A driver has thousands of requests in flight, each with a whole conversation in it: what a request costs this process
decides how many servers it can feed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin

import aiohttp

from genprm.engines.requests import Connection

CONNECT_S = 10.0
"""How long a connection may take to open."""
_PASSING = frozenset({408, 409, 429})
"""Answers below 500 after which the same request may succeed."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_LONGEST_WISH_S = 60.0
"""A server that asks for a longer pause than this gets the usual one."""


class NoAnswerError(Exception):
    """The server cannot be reached, took too long, or its answer was cut off."""


class StatusError(Exception):
    """The server answered with an error.

    Args:
        status: the HTTP status, 400 or above.
        message: what the server says about it.
        pause_s: seconds after which it wants to be asked again, where it says so.
    """

    def __init__(self, status: int, message: str, pause_s: float | None = None) -> None:
        super().__init__(f"Error code: {status} - {message}")
        self.status = status
        self.message = message
        self.pause_s = pause_s


def open_session(connection: Connection) -> aiohttp.ClientSession:
    """A session for `HttpServer`, to be closed by its owner: as many connections as there are requests."""
    key = os.environ.get(connection.get("api_key_env", "OPENAI_API_KEY"))
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=aiohttp.ClientTimeout(total=connection.get("timeout_s", 600.0), sock_connect=CONNECT_S),
        trust_env=True,  # proxies
    )


class HttpServer:
    """One server, asked through a session that several share.

    Args:
        base_url: such as `http://127.0.0.1:8000/v1`.
        session: holds the connections.
        retries: how often a request that failed is sent again.
    """

    def __init__(self, base_url: str, session: aiohttp.ClientSession, retries: int) -> None:
        self.base_url = base_url.rstrip("/")
        self._session = session
        self._retries = retries

    async def get(self, path: str) -> Any:
        """Reads JSON from a path below the base URL; see `post`."""
        return await self._patiently("GET", path, None)

    async def post(self, path: str, body: Mapping[str, object]) -> Any:
        """Sends JSON to a path below the base URL, and decodes the answer.

        Args:
            path: `../` in front leaves the last part of the base URL.
            body: what is sent.

        Raises:
            NoAnswerError: no attempt was answered, or the answer was cut off.
            StatusError: the server refuses the request, or failed in the last attempt.
        """
        return await self._patiently("POST", path, json.dumps(body, separators=(",", ":")).encode())

    async def page(self, path: str, timeout_s: float) -> str:
        """Reads a text, in one attempt; raises what `post` raises."""
        try:
            async with asyncio.timeout(timeout_s):
                return (await self._ask("GET", path, None)).decode(errors="replace")
        except TimeoutError as error:
            raise NoAnswerError(f"it did not answer within {timeout_s:g} s") from error

    async def _patiently(self, method: str, path: str, body: bytes | None) -> Any:
        for attempt in range(self._retries + 1):
            pause_s: float | None = None
            try:
                answer = await self._ask(method, path, body)
            except NoAnswerError:
                if attempt == self._retries:
                    raise
            except StatusError as error:
                if attempt == self._retries or (error.status < 500 and error.status not in _PASSING):
                    raise
                pause_s = error.pause_s
            else:
                try:
                    return json.loads(answer)
                except ValueError as error:
                    raise NoAnswerError(f"its answer is cut off, or no JSON: {error}") from error
            usual_s = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.75, 1.0)
            await asyncio.sleep(usual_s if pause_s is None else pause_s)
        raise AssertionError("a request is sent at least once")

    async def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        url = urljoin(f"{self.base_url}/", path)
        try:
            async with self._session.request(method, url, data=body) as answer:
                content = await answer.read()
                if answer.status >= 400:
                    raise StatusError(answer.status, _message(content), _wish(answer.headers))
                return content
        except aiohttp.ConnectionTimeoutError as error:
            raise NoAnswerError(f"no connection within {CONNECT_S:g} s") from error
        except TimeoutError as error:
            limit_s = self._session.timeout.total or 0.0
            raise NoAnswerError(f"it did not answer within {limit_s:g} s") from error
        except aiohttp.ClientError as error:
            raise NoAnswerError(_why(error)) from error


def _why(error: aiohttp.ClientError) -> str:
    """What went wrong, in the system's words where it is the system's error: `Connection refused`."""
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        cause = error.os_error
        if cause.errno and not isinstance(cause, socket.gaierror):
            return os.strerror(cause.errno)
        return cause.strerror or str(cause)
    return f"Connection error: {error or type(error).__name__}"


def _message(content: bytes) -> str:
    """What an error's body says: servers write `{"error": {"message": ...}}`, or `{"message": ...}`, or a page."""
    with suppress(ValueError, AttributeError):
        found: Any = json.loads(content)
        found = found.get("error", found)
        return str(found if isinstance(found, str) else found.get("message") or found.get("detail") or found)
    return content.decode(errors="replace").strip()


def _wish(headers: Mapping[str, str]) -> float | None:
    """Seconds after which the server wants to be asked again."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit_s
            if 0 < seconds <= _LONGEST_WISH_S:
                return seconds
    return None
