"""CPU time that a request to a model server costs the driver: genprm's client beside the openai package.

`python benchmarks/requests_per_core.py` starts a server that answers after 50 ms, in a process of its own, and sends
prompts of a thousand tokens with so many in flight. The openai package is measured where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

from genprm.engines.http import HttpServer, open_session

BODY = b'{"choices":[{"text":"abc","token_ids":[1,2,3],"finish_reason":"stop","stop_reason":"x"}],"usage":{}}'
PROMPT = list(range(1000))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = head.partition("content-length:")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            writer.write(b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY))
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


def _serve(port: Any) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=4096)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def cost(ask: Callable[[], Awaitable[object]], requests: int, in_flight: int) -> float:
    """Microseconds of CPU time a request, connections open already."""
    slots = asyncio.Semaphore(in_flight)

    async def one() -> None:
        async with slots:
            await ask()

    await asyncio.gather(*(one() for _ in range(in_flight)))
    started = time.process_time()
    await asyncio.gather(*(one() for _ in range(requests)))
    return round((time.process_time() - started) / requests * 1e6)


async def measure(url: str, requests: int, counts: list[int]) -> dict[str, Any]:
    """Microseconds a request, by client and requests in flight."""
    figures: dict[str, Any] = {"genprm": {}, "openai": {}}
    session = open_session({})
    server = HttpServer(url, session, 0)
    for count in counts:
        figures["genprm"][str(count)] = await cost(
            lambda: server.post("completions", {"model": "m", "prompt": PROMPT}), requests, count
        )
    await session.close()
    if importlib.util.find_spec("openai") is not None:
        import openai

        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)

        async def ask() -> object:
            raw = await client.completions.with_raw_response.create(model="m", prompt=PROMPT)
            return raw.http_response.json()

        for count in counts:
            try:
                figures["openai"][str(count)] = await cost(ask, requests, count)
            except openai.APIConnectionError as error:
                figures["openai"][str(count)] = f"{type(error).__name__}: {error}"
        await client.close()
    return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/requests_per_core.json")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    port: Any = spawn.Queue()
    server = spawn.Process(target=_serve, args=(port,), daemon=True)
    server.start()
    load = os.getloadavg()[0]
    figures = asyncio.run(measure(f"http://127.0.0.1:{port.get()}/v1", options.requests, options.in_flight))
    server.kill()
    for name, costs in figures.items():
        print(f"{name:>8}", *(f"{count} in flight: {us} us a request;" for count, us in costs.items()))
    line = json.dumps(figures | {"load": load})
    if options.save:
        (Path(__file__).parent / "results" / "requests_per_core.json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
