from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from genprm.sandbox import Limits, Sandbox, SandboxError, open_sandbox
from genprm.sandbox.service import ServiceSettings, serve

REPOSITORY = Path(__file__).parents[2]
BACKENDS = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
]
REMOTE = pytest.param("remote", marks=[pytest.mark.bubblewrap, pytest.mark.slow])
"""A service on a Unix socket, which runs snippets in bubblewrap."""
LIMITS = Limits(wall_s=2.0, cpu_s=5.0, memory_mb=512, output_kb=16)


def missing(reason: str) -> None:
    """Skips, or fails if everything must run."""
    if os.environ.get("GENPRM_CI") == "1":
        pytest.fail(f"nothing may be skipped in CI: {reason}")
    pytest.skip(reason)


def no_bubblewrap() -> str | None:
    """Why tests of bubblewrap cannot run."""
    return None if shutil.which("bwrap") else "bubblewrap is not installed"


# Shows the interpreter and this repository to a user without access to their parent folders.
LET_IN = r"""
set -e
for wanted in "$@"; do
    [ "$wanted" = -- ] && break
    blocked=$wanted
    top=
    while [ "$blocked" != / ]; do
        [ "$(stat -c %a "$blocked" | tail -c 2)" -ge 5 ] || top=$blocked
        blocked=$(dirname "$blocked")
    done
    [ -z "$top" ] && continue
    kept=$(mktemp -d)
    mount --bind "$wanted" "$kept"
    grep -q " $top tmpfs" /proc/mounts || mount -t tmpfs -o mode=755 tmpfs "$top"
    mkdir -p "$wanted"
    mount --move "$kept" "$wanted"
done
while [ "$1" != -- ]; do shift; done
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"""


def ordinary_user(*flags: str, first: str = "true") -> list[str]:
    """A command that runs the next one as an ordinary user, who can read the interpreter and this repository.

    Args:
        flags: further options of `unshare`.
        first: a shell command that root runs before, in the mount namespace of its own.
    """
    if os.getuid() != 0:
        return []
    if not all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount")):
        missing("becoming an ordinary user needs unshare, setpriv and mount")
    needed = sorted({sys.base_prefix, sys.prefix, str(REPOSITORY)})
    return ["unshare", "--mount", *flags, "sh", "-c", f"{first}; {LET_IN}", "sh", *needed, "--"]


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncGenerator[str]:
    """A running service; its address. It drains at the end, for no more than a moment."""
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ending = asyncio.Event()
    with tempfile.TemporaryDirectory() as folder:
        if "host" not in settings:
            settings.setdefault("socket", Path(folder, "sandbox.sock"))
        wanted = ServiceSettings(**{"sandbox": "bubblewrap", "lanes": 1, "drain_s": 0.5, **settings})
        service = asyncio.create_task(serve(wanted, on_start=started.set_result, ending=ending))
        await asyncio.wait((service, started), return_when=asyncio.FIRST_COMPLETED)
        if service.done():
            await service
        try:
            yield started.result()
        finally:
            ending.set()
            await service


async def opened(backend: str, limits: Limits = LIMITS, lanes: int = 1) -> Sandbox:
    """A started sandbox, which the caller closes."""
    box = open_sandbox(backend, limits=limits, lanes=lanes)
    try:
        return await box.start()
    except SandboxError as error:
        missing(f"{backend}: {error}")
        raise


@pytest.fixture(scope="session", params=[*BACKENDS, REMOTE])
async def box(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """An open sandbox with one lane, shared by all tests of a backend that do not break it."""
    async with contextlib.AsyncExitStack() as stack:
        backend = request.param
        if backend == "remote":
            if reason := no_bubblewrap():
                missing(reason)
            backend = await stack.enter_async_context(serving())
        opened_box = await opened(backend)
        yield opened_box
        await opened_box.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of a backend, for tests that open their own sandbox."""
    return request.param
