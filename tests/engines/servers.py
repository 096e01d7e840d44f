"""Small servers on real sockets: a scripted one, a proxy that can be cut off, and one that serves a real model and
sometimes fails."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from genprm.engines import Engine, Finish, Sampling, load_engine

T = TypeVar("T")

Answer = int | dict[str, Any] | Callable[[dict[str, Any]], "Answer"]
"""An error status, a JSON body, or a function from the request's body to one."""

HANG = -1
"""Never answers."""

Cut = Literal["measured", "unmeasured"]
"""Sends half of the answer, with its declared length or without."""


@dataclass
class ScriptedServer:
    """Implements enough of the completions API. Answers come from the front of `script`; the last one repeats."""

    script: list[Answer]
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "tiny", "max_model_len": 64}])
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers, body = await _read_request(reader)
        self.keys.append(headers.get("authorization", ""))
        if body is None:
            answer: Answer = _listed(*self.models)
        else:
            self.bodies.append(body)
            self.asked.set()
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        while callable(answer):
            answer = answer(self.bodies[-1])
        if answer == HANG:
            await asyncio.sleep(30)
        status = answer if isinstance(answer, int) else answer.pop("status", 200)
        await _answer(writer, status, {"error": {"message": f"scripted {status}"}} if answer == status else answer)


async def _read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The request's headers and body; None for reads, which get the list of models."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    if lines[0].startswith("GET "):
        return headers, None
    assert lines[0].startswith("POST /v1/completions ")
    return headers, json.loads(raw)


async def _answer(writer: asyncio.StreamWriter, status: int, answer: object, cut: Cut | None = None) -> None:
    body = json.dumps(answer).encode()
    # The client waits for this long before it tries again; by default it would be seconds.
    writer.write(b"HTTP/1.1 %d Scripted\r\nretry-after-ms: 5\r\nconnection: close\r\n" % status)
    writer.write(b"content-type: application/json\r\n")
    if cut != "unmeasured":
        writer.write(b"content-length: %d\r\n" % len(body))
    writer.write(b"\r\n" + (body[: len(body) // 2] if cut else body))
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def _listed(*models: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": [{"object": "model"} | model for model in models]}


@asynccontextmanager
async def scripted(*script: Answer, **fields: Any) -> AsyncIterator[ScriptedServer]:
    """A scripted server on its own port."""
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


async def _reset_latecomers() -> None:
    """Closes connections that arrived while asyncio closed their server, which leaves them open."""
    await asyncio.sleep(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


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
        await _reset_latecomers()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()


class ModelServer:
    """Serves a real engine to any number of clients, always on the same port. Open it with `model_server`."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._listening: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._restart: asyncio.Task[None] | None = None
        self.port = 0
        self.faults: Iterator[int | Cut | None] = iter(())
        """The fate of the next requests in turn: a status, a cut connection, or none."""
        self.requests = 0
        self.dies_at: int | None = None
        """The number of the request at which it dies, with all that is in flight."""
        self.away_s: float | None = None
        """How long it stays dead; None means forever."""
        self.deaths = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        self._run(self._start())

    def stop(self) -> None:
        """Stops listening and resets every connection, as a killed server does."""
        self._run(self._stop())

    def close(self) -> None:
        self.stop()
        self._run(self._engine.close())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._listening is not None:
            self._listening.close()
        connections = dict(self._connections)
        for task, writer in connections.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await _reset_latecomers()

    async def _die(self) -> None:
        self.deaths += 1
        await self._stop()
        if self.away_s is not None:
            await asyncio.sleep(self.away_s)
            await self._start()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._handle(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            _, body = await _read_request(reader)
            if body is None:
                await _answer(writer, 200, _listed({"id": "policy", "max_model_len": self._engine.max_model_len}))
                return
            self.requests += 1
            if self.requests == self.dies_at:
                self._restart = asyncio.create_task(self._die())
                await asyncio.sleep(60)
            fault = next(self.faults, None)
            if isinstance(fault, int):
                await _answer(writer, fault, {"error": {"message": "overloaded"}})
            else:
                await _answer(writer, 200, await self._completed(body), fault)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client disconnected
        finally:
            writer.transport.abort()

    async def _completed(self, body: dict[str, Any]) -> dict[str, Any]:
        sampling = Sampling(
            body["max_tokens"],
            body["temperature"],
            body["top_p"],
            max(body["top_k"], 0),
            tuple(body["stop"] or ()),
            body["seed"],
        )
        done = await self._engine.generate(body["prompt"], sampling)
        ids = list(done.token_ids)
        if done.finish is Finish.EOS:
            ids.append(body["stop_token_ids"][0])
        finish = "length" if done.finish is Finish.LENGTH else "stop"
        return completed(ids, done.text, finish, stop_reason=done.stop)


@contextmanager
def model_server(model: str) -> Iterator[ModelServer]:
    """A model server in its own thread, so that clients may block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="model-server")
    thread.start()
    try:
        engine = asyncio.run_coroutine_threadsafe(load_engine("transformers", model), loop).result(60)
        server = ModelServer(engine, loop)
        server.start()
        try:
            yield server
        finally:
            server.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
