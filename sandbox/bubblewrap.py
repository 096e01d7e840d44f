"""Guests in bubblewrap: no daemon, no image; only this machine's interpreter, read-only.

Under root, the supervisor keeps the capabilities of a container's root (SETUID, SETGID, KILL), so each session gets its
own user. Under an ordinary user there is only one user, so each session gets its own namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import PurePosixPath

from .binds import ROOT, find_layout
from .channels import COMPLAINT_BYTES, StreamChannel
from .guest_config import ENVIRONMENT, guest_config
from .lane import LaneBroken
from .limits import Limits
from .results import SandboxError

_DEVICES = ("null", "zero", "full", "random", "urandom")
_END_S = 10.0


class BubblewrapBackend:
    """Starts guests under `bwrap`."""

    name = "bubblewrap"

    def __init__(self, limits: Limits, note: str) -> None:
        self.note = note
        self._limits = limits

    async def launch(self) -> BubblewrapChannel:
        """Start a guest."""
        command = await asyncio.to_thread(bwrap_command, self._limits)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={},
                start_new_session=True,  # Ctrl-C on the terminal is only for the host
            )
        except OSError as error:
            raise LaneBroken(f"bwrap does not start: {error}") from None
        return BubblewrapChannel(process)

    async def close(self) -> None:
        """Nothing is shared."""


class BubblewrapChannel(StreamChannel):
    """A guest's standard streams."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        super().__init__(process.stdout, process.stdin)
        self._process = process
        self._descriptor = os.pidfd_open(process.pid)
        self._ended = False
        self._log = b""
        self._logger = asyncio.create_task(self._read_log(process.stderr))

    @property
    def pid(self) -> int:
        """The process of bwrap itself."""
        return self._process.pid

    async def close(self) -> None:
        """End of input ends the guest; otherwise its namespace dies with bwrap."""
        self._writer.close()
        if not self._ended:
            self._ended = True
            # Not by asyncio's `kill`, which may reap the process before its watcher.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            os.close(self._descriptor)
        async with asyncio.timeout(_END_S):
            await self._process.wait()
            await self._logger

    def complaint(self) -> str:
        """The end of the guest's log."""
        return self._log.decode("utf-8", "replace").strip()

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(4096):
            self._log = (self._log + data)[-COMPLAINT_BYTES:]


def bwrap_command(limits: Limits) -> list[str]:
    """The whole command line.

    Raises:
        SandboxError: bwrap or a package is missing.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError("bubblewrap is not installed: install the package `bubblewrap` of your distribution")
    layout = find_layout()
    root = os.getuid() == 0
    command = [bwrap, "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if root:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_SETPCAP"):
            command += ["--cap-add", capability]  # the last two are used at the start, then dropped
    else:
        command += ["--unshare-user"]
    # Parent folders must be accessible to the sessions' users.
    folders = {str(parent) for _, inside in layout.binds for parent in PurePosixPath(inside).parents}
    for folder in sorted({*folders, "/dev"} - {"/"}):
        command += ["--perms", "0755", "--dir", folder]
    for outside, inside in layout.binds:
        command += ["--ro-bind", outside, inside]
    for folder in layout.hidden:
        command += ["--tmpfs", folder, "--remount-ro", folder]
    for device in _DEVICES:
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    # A /proc for the supervisor, where sessions have no access.
    command += ["--perms", "0700", "--dir", "/supervisor", "--proc", "/supervisor/proc"]
    command += ["--perms", "0711", "--size", str(16 << 20), "--tmpfs", "/tmp"]
    command += ["--remount-ro", "/", "--chdir", "/"]
    for name, value in (*ENVIRONMENT, *layout.environment):
        command += ["--setenv", name, value]
    config = guest_config(limits, proc="/supervisor/proc", readable=(ROOT, "/lib64", "/lib"))
    return [*command, "--", layout.interpreter, "-s", "-P", "-m", "guest", config]


def why_not() -> str | None:
    """Why bubblewrap cannot be used here, or None if it can."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return "bubblewrap is not installed (install your distribution's package `bubblewrap`)"
    probe = [bwrap, "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    if os.getuid() != 0:
        probe.insert(1, "--unshare-user")
    try:
        answer = subprocess.run(probe, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not run: {error}"
    if answer.returncode:
        return f"bubblewrap cannot create namespaces here: {answer.stderr.strip() or answer.returncode}"
    return None
