"""Small servers on real sockets: one answers by a script, one stands before another server and can be cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = int | dict[str, Any] | Callable[[dict[str, Any]], "Answer"]
"""A status to fail with, a JSON body, or what makes one of the request's body."""

HANG = -1
"""Never answers."""


@dataclass
class ScriptedServer:
    """Speaks enough of the completions API. Answers are taken from the front of `script`; the last one stays."""

    script: list[Answer]
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "tiny", "max_model_len": 64}])
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        self.keys.append(headers.get("authorization", ""))
        if lines[0].startswith("GET /v1/models "):
            answer: Answer = {"object": "list", "data": [{"object": "model"} | model for model in self.models]}
        else:
            assert lines[0].startswith("POST /v1/completions ")
            self.bodies.append(json.loads(raw))
            self.asked.set()
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        while callable(answer):
            answer = answer(self.bodies[-1])
        if answer == HANG:
            await asyncio.sleep(30)
        status = answer if isinstance(answer, int) else answer.pop("status", 200)
        body = json.dumps({"error": {"message": f"scripted {status}"}} if isinstance(answer, int) else answer).encode()
        # The client waits for this long before it tries again; by default it would be seconds.
        writer.write(b"HTTP/1.1 %d Scripted\r\nretry-after-ms: 5\r\nconnection: close\r\n" % status)
        writer.write(b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def scripted(*script: Answer, **fields: Any) -> AsyncIterator[ScriptedServer]:
    """A scripted server on a port of its own."""
    server = ScriptedServer(list(script), **fields)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(answered(reader, writer)))

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await server.handle(reader, writer)
        finally:
            writer.transport.abort()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def completed(ids: list[int] | None, text: str = "", finish: str = "length", **choice: Any) -> dict[str, Any]:
    """The body of a completion."""
    extra = {} if ids is None else {"token_ids": ids}
    return {
        "id": "1",
        "object": "text_completion",
        "created": 0,
        "model": "tiny",
        "choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs": None} | extra | choice],
    }


class Gate:
    """Passes connections on to another server, until it dies."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self.connections = 0

    async def open(self) -> str:
        """Starts to listen; returns the base URL."""
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}/v1"

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.create_task(self._join(reader, writer)))

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    async def die(self) -> None:
        """Stops listening and resets every connection, as a killed server does."""
        if self._listening is not None:
            self._listening.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
