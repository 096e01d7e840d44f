"""Clients that say half of something, or do not listen: they are cut off, and the service goes on."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from genprm.serve.gate import Gate
from genprm.serve.settings import ServeConfig
from genprm.serve.wire import Bounds
from tests.serve.shared import PROBLEM, Live, SteppedJudge, live, until

pytestmark = pytest.mark.slow


HEAD = b"POST /v1/judge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BOUNDS = Bounds(connections=40, header_s=0.4, header_bytes=8 << 10, left_bytes=64 << 10, stall_s=0.5)


@asynccontextmanager
async def talk(one: Live) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = one.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ends(reader: asyncio.StreamReader, within: float = 5.0) -> bytes:
    """What is still sent before the connection ends."""
    got = b""
    try:
        async with asyncio.timeout(within):
            while part := await reader.read(1 << 16):
                got += part
    except ConnectionError:
        pass
    return got


async def judged(one: Live) -> None:
    response = await one.post("/v1/score", {"problem": PROBLEM, "steps": ["1 = 1"]})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "said",
    [b"", HEAD, b"G", b"POST /v1/judge HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 2000],
    ids=["nothing", "half a header", "one byte", "a header without its end"],
)
async def test_a_header_that_does_not_end(said: bytes) -> None:
    async with live(SteppedJudge(), bounds=BOUNDS) as one, talk(one) as (reader, writer):
        started = time.monotonic()
        writer.write(said)
        assert await ends(reader) == b""
        assert time.monotonic() - started >= 0.3
        await judged(one)


async def test_a_header_that_drips() -> None:
    async with live(SteppedJudge(), bounds=BOUNDS) as one, talk(one) as (reader, writer):
        writer.write(HEAD)
        ended = asyncio.create_task(ends(reader))
        started = time.monotonic()
        while not ended.done():
            writer.write(b"X: 1\r\n")
            await asyncio.sleep(0.02)
        # Each line is something new: the time runs from the first byte all the same.
        assert time.monotonic() - started < 5
        assert await one.metric("genprm_connections ") <= 2


async def test_the_next_request_of_a_connection_may_not_drip_either() -> None:
    async with live(SteppedJudge(), bounds=BOUNDS) as one, talk(one) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.6)  # an idle connection stays: a trainer's client comes back to it
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /hea")
        assert await ends(reader) == b""


async def test_a_header_without_measure() -> None:
    async with live(SteppedJudge(), bounds=BOUNDS) as one, talk(one) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 90) for n in range(1000)))
        started = time.monotonic()
        await ends(reader)
        assert time.monotonic() - started < 5
        await judged(one)


async def test_a_body_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Gate.__init__

    def hasty(self: Gate, *arguments: object, **_: object) -> None:
        before(self, *arguments, body_s=0.4)  # type: ignore[arg-type]

    monkeypatch.setattr(Gate, "__init__", hasty)
    async with live(SteppedJudge(), bounds=BOUNDS) as one, talk(one) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 5000\r\n\r\n{")
        ended = asyncio.create_task(ends(reader))
        while not ended.done():
            writer.write(b" ")
            await asyncio.sleep(0.02)
        assert b" 408 " in ended.result()
        await judged(one)


async def test_a_client_that_does_not_read_its_answer() -> None:
    judge = SteppedJudge()
    async with live(judge, ServeConfig(max_steps=5000, max_chars=10_000_000), bounds=BOUNDS) as one:
        step = "x" * 4000 + " 1 = 1"
        body = b'{"stream": true, "problem": "p", "steps": [%s]}' % b",".join([b'"%s"' % step.encode()] * 1500)
        host, _, port = one.url.removeprefix("http://").partition(":")
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, (host, int(port)))
        await loop.sock_sendall(deaf, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: not one.app.service.desk._flights and len(one.server.server_state.connections) == 0)
        deaf.close()
        await judged(one)


async def test_many_half_open_connections_do_not_keep_others_out() -> None:
    async with live(SteppedJudge(), bounds=BOUNDS) as one:
        await judged(one)  # the client's own connection is open
        host, _, port = one.url.removeprefix("http://").partition(":")
        pairs = [await asyncio.open_connection(host, int(port)) for _ in range(60)]
        for _, writer in pairs:
            writer.write(HEAD)
        await judged(one)
        said = [await ends(reader) for reader, _ in pairs]
        assert sum(b" 503 " in one for one in said) >= 20
        for _, writer in pairs:
            writer.transport.abort()
        await until(lambda: len(one.server.server_state.connections) <= 1)
        async with talk(one) as (reader, writer):
            writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await ends(reader)).startswith(b"HTTP/1.1 200")
