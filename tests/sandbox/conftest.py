from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from genprm.sandbox import Limits, Sandbox, SandboxError, open_sandbox
from genprm.sandbox.attacks import ATTACK_LIMITS, Attack, Outcome, run_attacks
from genprm.sandbox.service import ServiceSettings, serve
from tests.conftest import ROOT, missing

BACKENDS = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
]
REMOTE = pytest.param("remote", marks=[pytest.mark.bubblewrap, pytest.mark.slow])
"""A service on a Unix socket, which runs snippets in bubblewrap."""
LIMITS = Limits(wall_s=2.0, cpu_s=5.0, memory_mb=512, output_kb=16)


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
    rmdir "$kept"
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
    needed = sorted({sys.base_prefix, sys.prefix, str(ROOT)})
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


TIMING = ("ran for", "canary took")


async def attacked(backend: str, attacks: tuple[Attack, ...]) -> dict[str, Outcome]:
    box = await opened(backend, ATTACK_LIMITS)
    try:
        return {outcome.attack.name: outcome async for outcome in run_attacks(box, attacks)}
    finally:
        await box.close()


def only_slow(outcome: Outcome) -> bool:
    """Whether it failed only by time."""
    return all(failure.startswith(TIMING) for failure in outcome.failures)


async def contained(backend: str, attacks: tuple[Attack, ...]) -> None:
    outcomes = await attacked(backend, attacks)
    assert len(outcomes) == len(attacks)
    failed = {name: outcome for name, outcome in outcomes.items() if not outcome.contained}
    # Other work may have delayed it: an attack that was only late must be in time when run alone.
    late = tuple(outcome.attack for outcome in failed.values() if only_slow(outcome))
    if late:
        failed |= await attacked(backend, late)
    assert not {name: outcome.failures for name, outcome in failed.items() if not outcome.contained}


def guests(pid: int | None = None, marked: bytes = b"") -> list[int]:
    """Supervisors and all that they have started, by their command line, which has the mark.

    Of one process's descendants if given.
    """
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                line = Path(entry.path, "cmdline").read_bytes()
                if b"\0-m\0guest\0" in line and marked in line:
                    found.append(int(entry.name))
    return found if pid is None else [one for one in found if pid in ancestors(one)]


def ancestors(pid: int) -> list[int]:
    chain = []
    while pid > 1:
        try:
            status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            break
        pid = int(status.rpartition(")")[2].split()[1])
        chain.append(pid)
    return chain


HELD = b'"cpu_s": 97.5'
"""A limit that no other guest on this machine has."""
HOLD = """
import asyncio, sys
from genprm.sandbox import Limits, open_sandbox
async def main():
    async with open_sandbox(sys.argv[1], lanes=2, limits=Limits(cpu_s=97.5)) as box, box.session() as session:
        await box.grow()
        await session.run("x = 1")
        print("ready", flush=True)
        await session.run("import time; time.sleep(100)")
asyncio.run(main())
"""


def end_the_host(backend: str, number: signal.Signals, environment: Mapping[str, str] | None = None) -> None:
    """Ends a process whose sandbox runs a snippet, and asserts that its guests end too."""
    # Shells start background jobs with SIGINT ignored, and these tests may be one.
    host = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-c", HOLD, backend],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment,
    )
    with host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"ready\n"
        assert guests(marked=HELD)
        host.send_signal(number)
        host.wait(30)
    end = time.monotonic() + 30
    while (left := guests(marked=HELD)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left


def start_service(path: Path, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A service in a process of its own, once it answers; `before` is a command that runs it."""
    command = [*before, sys.executable, "-m", "genprm.cli.main", "sandbox", "serve", "--sandbox", "bubblewrap"]
    service = subprocess.Popen([*command, "--socket", str(path), "--lanes", "1"], stderr=subprocess.PIPE, text=True)
    assert service.stderr is not None
    assert service.stderr.readline() == f"the sandbox answers at unix:{path}\n"
    return service


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
