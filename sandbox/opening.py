"""Choosing a backend."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Literal, TypeVar

from . import bubblewrap
from .box import Backend, Sandbox
from .bubblewrap import BubblewrapBackend
from .limits import Limits
from .results import SandboxError

T = TypeVar("T")

BackendName = Literal["auto", "docker", "bubblewrap"]


def open_sandbox(
    backend: BackendName = "auto",
    *,
    limits: Limits | None = None,
    lanes: int | None = None,
    runtime: str | None = None,
) -> Sandbox:
    """Creates a sandbox, for use with `async with`.

    Args:
        backend: `docker`, `bubblewrap`, or `auto`: Docker if an engine answers and the image exists or can be built,
            else bubblewrap. `Sandbox.note` says why.
        limits: limits of every snippet; `Limits()` by default.
        lanes: most concurrent snippets; by default the number of cores. Lanes start as needed.
        runtime: a container runtime known to the engine, such as `runsc` for gVisor. Only with Docker.

    Raises:
        ValueError: an argument is out of range. Entering the sandbox raises SandboxError when no backend can be used.
    """
    if backend not in ("auto", "docker", "bubblewrap"):
        raise ValueError(f"backend must be 'auto', 'docker' or 'bubblewrap', not {backend!r}")
    cores = len(os.sched_getaffinity(0))
    lanes = cores if lanes is None else lanes
    if not 1 <= lanes <= 1024:
        raise ValueError(f"lanes must be between 1 and 1024, not {lanes!r}")
    if runtime is not None and backend == "bubblewrap":
        raise ValueError(f"runtime {runtime!r} is for Docker: bubblewrap has no runtimes")
    limits = limits or Limits()

    async def choose() -> Backend:
        return await _choose(backend, limits, runtime)

    return Sandbox(choose, limits, lanes)


async def _choose(backend: BackendName, limits: Limits, runtime: str | None) -> Backend:
    # Imported late: the Docker SDK is slow to import and not always needed.
    from . import docker

    obstacle = ""
    if backend != "bubblewrap":
        try:
            return await _in_daemon_thread(lambda: docker.open_backend(limits, runtime))
        except SandboxError as error:
            obstacle = str(error)
            # If Docker or a runtime was requested, never fall back to less isolation.
            if backend == "docker" or runtime is not None:
                raise
    reason = await asyncio.to_thread(bubblewrap.why_not)
    if reason is None:
        note = f"bubblewrap, because {obstacle}" if obstacle else "bubblewrap, as requested"
        return BubblewrapBackend(limits, note)
    if backend == "bubblewrap":
        raise SandboxError(reason)
    raise SandboxError(
        f"no sandbox can be used here. Docker: {obstacle}. Bubblewrap: {reason}. Install and start Docker, or install "
        "bubblewrap; running untrusted code without either is not offered"
    )


async def _in_daemon_thread(function: Callable[[], T]) -> T:
    """Runs a function in a thread that is abandoned on cancellation; even the end of the process does not wait for it.

    Building an image takes minutes, and a thread of `asyncio.to_thread` is joined when the event loop ends.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # pyright: ignore[reportArgumentType]
        else:
            future.set_exception(error)

    def run() -> None:
        try:
            outcome = function(), None
        except BaseException as error:
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="genprm-sandbox-open", daemon=True).start()
    return await future
