"""Guests on other machines: lanes to sandbox services (`genprm sandbox serve`).

A lane is a WebSocket that carries the frames of a guest; `service.connection` lists the few messages that a service
adds. Sessions, retries and replays are therefore the same as with guests on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from .guest import frames
from .lane import LaneBroken
from .limits import Limits
from .results import SandboxError

TOKEN_VARIABLE = "GENPRM_SANDBOX_TOKEN"
"""The environment variable with the token that services ask for."""
PATH = "/v1/sandbox"
VERSION = 1
"""Protocol version. A service with another one says so."""
_HANDSHAKE_S = 20.0
_START_S = 120.0
"""Time limit for a service to start its first guest with these limits."""
_BACK_S = 60.0
"""How long to wait for services that answered before: they may be restarting."""
_AVOID_S = 5.0
"""For this long after a failure, a service is tried last."""
_PING_S, _PONG_S = 20.0, 60.0


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a service."""

    text: str
    """As given by the user."""
    url: str
    """URL of its WebSocket."""
    path: str | None = None
    """Path of its Unix socket."""


def addresses(text: str) -> tuple[Address, ...]:
    """Parses a comma-separated list of services.

    Raises:
        ValueError: one is not the address of a service.
    """
    return tuple(_address(part.strip()) for part in text.split(","))


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise ValueError(f"{text!r} must name an absolute path, as in 'unix:/run/genprm/sandbox.sock'")
        return Address(text, f"ws://localhost{PATH}", path)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.path not in ("", "/"):
        raise ValueError(
            f"{text!r} is not the address of a sandbox service, which looks like 'https://host:port' or 'unix:/path'"
        )
    if parts.username or parts.password:
        raise ValueError(
            f"the address of {parts.hostname!r} holds a token, which a run would store: set {TOKEN_VARIABLE}"
        )
    scheme = "wss" if parts.scheme == "https" else "ws"
    return Address(text, f"{scheme}://{parts.netloc}{PATH}")


class RemoteBackend:
    """Opens lanes to the least loaded of several services."""

    name = "remote"

    def __init__(self, services: tuple[Address, ...], limits: Limits) -> None:
        self.note = ", ".join(address.text for address in services)
        self._services = services
        self._limits = limits
        self._failed: dict[Address, float] = {}
        self._offers: dict[Address, int] = {}
        """Lanes of each service that has answered."""

    @property
    def lanes(self) -> int | None:
        """Total lanes of the services that have answered."""
        return sum(self._offers.values()) or None

    async def launch(self) -> RemoteChannel:
        """Opens a lane to the least loaded service. Waits for services that answered before."""
        end = time.monotonic() + (_BACK_S if self._offers else 0)
        while True:
            now = time.monotonic()
            fresh = [one for one in self._services if now - self._failed.get(one, -_AVOID_S) >= _AVOID_S]
            reasons: list[str] = []
            for group in (fresh, [one for one in self._services if one not in fresh]):
                dialled = await asyncio.gather(*(self._dial(one) for one in group), return_exceptions=True)
                opened = [one for one in dialled if isinstance(one, RemoteChannel)]
                failed = [one for one in dialled if isinstance(one, BaseException)]
                if opened:
                    best = min(opened, key=lambda channel: channel.load)
                    await asyncio.gather(*(one.close() for one in opened if one is not best))
                    return best
                if (other := next((one for one in failed if not isinstance(one, LaneBroken)), None)) is not None:
                    raise other
                reasons += map(str, failed)
            if time.monotonic() >= end:
                raise LaneBroken("; ".join(reasons))
            await asyncio.sleep(0.5)

    async def close(self) -> None:
        """No effect: lanes share nothing."""

    async def _dial(self, address: Address) -> RemoteChannel:
        """Opens a lane to one service.

        Raises:
            LaneBroken: it does not answer, or is shutting down.
            SandboxError: it refuses this client; retrying would not help.
        """
        try:
            channel = await RemoteChannel.open(address, self._limits)
        except LaneBroken:
            self._failed[address] = time.monotonic()
            raise
        self._failed.pop(address, None)
        self._offers[address] = channel.lanes
        if len(self._services) == 1 and channel.note not in self.note:
            self.note = f"{address.text} ({channel.note})"
        return channel


class RemoteChannel:
    """A lane's connection to a service."""

    def __init__(self, connection: object, address: Address, greeting: dict[str, object]) -> None:
        from websockets.asyncio.client import ClientConnection

        assert isinstance(connection, ClientConnection)
        self.address = address
        self.load = frames.number(greeting, "load")
        """Open lanes of all its clients, divided by its number of lanes."""
        self.lanes = frames.integer(greeting, "lanes")
        self.note = frames.encodable(frames.text(greeting, "note"))
        self._connection = connection
        self._pending = bytearray(frames.encode(greeting))
        self._why = ""

    @classmethod
    async def open(cls, address: Address, limits: Limits) -> RemoteChannel:
        """Connects, asks for a lane with these limits, and waits for the answer. Raises LaneBroken, SandboxError."""
        from websockets.asyncio.client import connect, unix_connect
        from websockets.exceptions import InvalidStatus, WebSocketException

        token = os.environ.get(TOKEN_VARIABLE, "")
        settings: dict[str, Any] = {
            "additional_headers": {"Authorization": f"Bearer {token}"} if token else {},
            "compression": None,
            "max_size": frames.reply_limit(limits.output_kb) + frames.HEADER.size,
            "open_timeout": _HANDSHAKE_S,
            "ping_interval": _PING_S,
            "ping_timeout": _PONG_S,
            "close_timeout": 2.0,
        }
        try:
            if address.path is not None:
                connection = await unix_connect(address.path, uri=address.url, **settings)
            else:
                connection = await connect(address.url, **settings)
        except InvalidStatus as error:
            raise _refusal(address, error.response.status_code, bytes(error.response.body or b""), token) from None
        except (OSError, TimeoutError, WebSocketException, EOFError) as error:
            raise LaneBroken(f"no sandbox service answers at {address.text}: {error or type(error).__name__}") from None
        try:
            wanted = {"op": "open", "id": 0, "version": VERSION, "limits": asdict(limits)}
            async with asyncio.timeout(_START_S):
                await connection.send(frames.encode(wanted))
                greeting = parse_message(await connection.recv())
            if "refused" in greeting:
                raise SandboxError(f"{address.text}: {frames.encodable(frames.text(greeting, 'refused'))}")
            if "broken" in greeting:
                raise LaneBroken(f"{address.text}: {frames.encodable(frames.text(greeting, 'broken'))}")
            return cls(connection, address, greeting)
        except (frames.FrameError, WebSocketException, TimeoutError) as error:
            await connection.close()
            raise LaneBroken(f"{address.text}: {error or type(error).__name__}") from None
        except BaseException:
            await connection.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether the connection is closed."""
        from websockets.protocol import State

        return self._connection.state is not State.OPEN

    async def read(self, size: int) -> bytes:
        """Reads exactly `size` bytes."""
        from websockets.exceptions import ConnectionClosed

        while len(self._pending) < size:
            try:
                message = await self._connection.recv()
            except ConnectionClosed as error:
                raise LaneBroken(self._gone(error)) from None
            self._pending += message if isinstance(message, bytes) else b""
        wanted = bytes(self._pending[:size])
        del self._pending[:size]
        return wanted

    async def write(self, data: bytes) -> None:
        """Sends data."""
        from websockets.exceptions import ConnectionClosed

        try:
            await self._connection.send(data)
        except ConnectionClosed as error:
            raise LaneBroken(self._gone(error)) from None

    async def close(self) -> None:
        """Closes the connection; the service then ends its sessions."""
        with contextlib.suppress(Exception):
            await self._connection.close()

    def complaint(self) -> str:
        """How the connection ended."""
        return self._why

    def _gone(self, error: Exception) -> str:
        self._why = f"the connection to {self.address.text} has ended ({error})"
        return self._why


def parse_message(data: str | bytes) -> dict[str, object]:
    """Decodes a message that holds one frame."""
    if not isinstance(data, bytes) or len(data) < frames.HEADER.size:
        raise frames.FrameError(f"no frame: {data!r:.80}")
    size = frames.length(data[: frames.HEADER.size], len(data) - frames.HEADER.size)
    return frames.decode(data[frames.HEADER.size : frames.HEADER.size + size])


def _refusal(address: Address, status: int, body: bytes, token: str) -> Exception:
    """The error for an HTTP status in place of a lane."""
    said = body.decode("utf-8", "replace").strip()[:300]
    if status == 401:
        todo = f"refuses the token in {TOKEN_VARIABLE}" if token else f"asks for a token: set {TOKEN_VARIABLE}"
        return SandboxError(f"the sandbox service at {address.text} {todo}")
    if status in (403, 404):  # 403 comes from servers without a WebSocket at this path
        return SandboxError(
            f"{address.text} is not a sandbox service, or not one of version {VERSION} ({status} for {PATH})"
        )
    if 400 <= status < 500 and status != 429:
        return SandboxError(f"the sandbox service at {address.text} refuses: {said or status}")
    return LaneBroken(f"the sandbox service at {address.text} opens no lane ({status}): {said}")
