"""A service with a judge whose answers are known, on a real port."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from genprm.prms.base import PRM, OnStep
from genprm.serve.app import App, create_app
from genprm.serve.run import Server, listen
from genprm.serve.settings import ServeConfig
from genprm.serve.wire import Bounds
from genprm.types import Judgement
from tests.judges import ArithmeticJudge

PROBLEM = "What is 1 + 1?"


@dataclass
class SteppedJudge(ArithmeticJudge):
    """Reports each step, and takes `step_s` for each. A step that reads `wait` takes forever."""

    step_s: float = 0.0
    cancelled: int = 0

    async def judge_watched(self, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
        whole = await super().judge(problem, steps, seed=seed)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            for index, step in enumerate(whole.steps):
                await asyncio.sleep(3600 if steps[index] == "wait" else self.step_s)
                on_step(index, step)
            return whole
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1


@dataclass
class Live:
    """A running service."""

    url: str
    http: httpx.AsyncClient
    app: App
    server: Server

    async def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return await self.http.post(path, json=body, **options)

    async def metric(self, name: str) -> float:
        text = (await self.http.get("/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


@asynccontextmanager
async def live(
    prm: PRM, config: ServeConfig | None = None, *, port: int = 0, bounds: Bounds | None = None, **options: Any
) -> AsyncGenerator[Live]:
    config = config or ServeConfig()
    app = create_app(prm, config, **{"keys": (), **options})
    listening = listen("127.0.0.1", port)
    server = Server(app, config, bounds=bounds)
    started = asyncio.create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=512)) as http:
            yield Live(url, http, app, server)
    finally:
        server.should_exit = True
        await started
        listening.close()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for cannot tell
            await asyncio.sleep(0.005)


def events_of(text: str) -> list[tuple[str, str]]:
    """The events of a stream: (event, data)."""
    found: list[tuple[str, str]] = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], lines["data"]))
    return found


async def says(page: Any, place: str, text: str) -> None:
    """Waits until a part of a page has a text."""
    from playwright.async_api import expect

    # Waiting for an expression would need eval, which the page's policy forbids.
    await expect(page.locator(place)).to_contain_text(text, timeout=20_000)


@asynccontextmanager
async def command(
    *arguments: str, folder: Path | None = None, said: list[bytes] | None = None, **environment: str
) -> AsyncGenerator[tuple[Process, str]]:
    """`genprm serve` as a process, and its address; `said` gets what it writes until it answers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "genprm.cli.main", "serve", *arguments),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stderr is not None
    try:
        found = None
        async with asyncio.timeout(120):
            while found is None:
                line = await process.stderr.readline()
                assert line, "it ended"
                if said is not None:
                    said.append(line)
                found = re.search(rb"answers at (http://\S+)", line)
        yield process, found[1].decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
