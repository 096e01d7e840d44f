"""Choosing a backend."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from . import remote
from .box import Backend, Sandbox
from .guest.seccomp import why_unknown
from .lane import Lane, LaneBroken
from .limits import Limits
from .results import SandboxError

T = TypeVar("T")

_LOCAL = ("docker", "bubblewrap", "podman")
"""In the order in which `auto` tries them."""
_WITH_RUNTIMES = ("docker", "podman")


def open_sandbox(
    backend: str = "auto",
    *,
    limits: Limits | None = None,
    lanes: int | None = None,
    runtime: str | None = None,
) -> Sandbox:
    """Creates a sandbox, for use with `async with`.

    Args:
        backend: `docker`, `podman`, `bubblewrap`, or `auto`: the first of Docker, bubblewrap and Podman whose guest
            starts. `Sandbox.note` says why. Or where sandbox services answer (`genprm sandbox serve`):
            `https://host:port`, `http://host:port` or `unix:/path`; several with commas between them.
        limits: limits of every snippet; `Limits()` by default.
        lanes: most concurrent snippets; by default the number of cores, or what the services offer. Lanes start as
            needed.
        runtime: a container runtime known to the engine, such as `kata-runtime`. Only with Docker and Podman.

    Raises:
        ValueError: an argument is out of range. Entering the sandbox raises SandboxError when no backend can be used.
    """
    check_backend(backend)
    if lanes is not None and not 1 <= lanes <= 1024:
        raise ValueError(f"lanes must be between 1 and 1024, not {lanes!r}")
    if runtime is not None and backend not in ("auto", *_WITH_RUNTIMES):
        raise ValueError(f"runtime {runtime!r} is for Docker and Podman: {backend!r} has no runtimes")
    limits = limits or Limits()

    async def choose() -> tuple[Backend, Lane]:
        return await _choose(backend, limits, runtime)

    return Sandbox(choose, limits, lanes)


def check_backend(value: str) -> str:
    """The name of a backend, as it was given.

    Raises:
        ValueError: it is neither a name nor the addresses of services.
    """
    if value not in ("auto", *_LOCAL):
        if "/" not in value and ":" not in value:
            raise ValueError(
                f"the sandbox must be 'auto', 'docker', 'podman', 'bubblewrap', or where a service answers "
                f"('https://host:port', 'unix:/path'), not {value!r}"
            )
        remote.addresses(value)
    return value


async def why_not(backend: str, limits: Limits | None = None) -> str | None:
    """Why a backend cannot be used here, or None when it can: starts a guest as a run would, and ends it."""
    try:
        opened, lane = await _launch(backend, limits or Limits(), None, "")
    except SandboxError as error:
        return str(error)
    await lane.close()
    await opened.close()
    return None


async def _choose(backend: str, limits: Limits, runtime: str | None) -> tuple[Backend, Lane]:
    if backend != "auto":
        return await _launch(backend, limits, runtime, f"{backend}, as asked for")
    obstacles: list[str] = []
    # A caller that asks for a runtime does not get less isolation.
    for name in _LOCAL if runtime is None else _WITH_RUNTIMES:
        try:
            return await _launch(
                name, limits, runtime, f"{name}, because {'; '.join(obstacles)}" if obstacles else name
            )
        except SandboxError as error:
            obstacles.append(str(error))
    raise SandboxError(
        f"no sandbox can be used here: {'; '.join(obstacles)}. Mend one of them, or run the code on another machine "
        "(`genprm sandbox serve` there, --sandbox https://host:port here); untrusted code is not run without a sandbox"
    )


async def _launch(name: str, limits: Limits, runtime: str | None, note: str) -> tuple[Backend, Lane]:
    """A backend and its first guest."""
    if name in _LOCAL and (reason := why_unknown()) is not None:
        raise SandboxError(reason)
    backend = await _open(name, limits, runtime, note)
    try:
        return backend, await Lane.start(await backend.launch(), limits)
    except LaneBroken as broken:
        await backend.close()
        raise SandboxError(f"the {name} sandbox does not start: {broken}") from None
    except BaseException:
        await backend.close()
        raise


async def _open(name: str, limits: Limits, runtime: str | None, note: str) -> Backend:
    # Imported late: the Docker SDK takes a while, and not everybody needs it.
    if name == "docker":
        from . import docker

        return await _in_daemon_thread(lambda: docker.open_backend(limits, runtime))
    if name == "bubblewrap":
        from .bubblewrap import BubblewrapBackend

        return BubblewrapBackend(limits, note)
    if name == "podman":
        from . import podman

        return await _in_daemon_thread(lambda: podman.open_backend(limits, runtime, note))
    return remote.RemoteBackend(remote.addresses(name), limits)


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
