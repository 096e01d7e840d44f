"""Guests in bubblewrap: no daemon, no image; only this machine's interpreter, read-only.

Under root, the supervisor keeps the capabilities of a container's root (SETUID, SETGID, KILL), so each session gets its
own user. Under an ordinary user there is only one user, so each session gets its own namespaces. A root that is the
only user of its namespace, or lacks CAP_SYS_ADMIN, counts as an ordinary user.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import PurePosixPath

from . import remedies
from .binds import ROOT, find_layout
from .channels import ProcessChannel
from .guest_config import ENVIRONMENT, guest_config
from .lane import LaneBroken
from .limits import Limits
from .results import SandboxError

_SOMEBODY = "1000"
_DEVICES = ("null", "zero", "full", "random", "urandom")


class BubblewrapBackend:
    """Starts guests under `bwrap`."""

    name = "bubblewrap"
    lanes: int | None = None

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


class BubblewrapChannel(ProcessChannel):
    """A guest's standard streams. If it does not end with its input, its namespace dies with bwrap."""

    def complaint(self) -> str:
        """The end of the guest's log, and what to do about it where the guest could not be isolated."""
        said = super().complaint()
        cannot = said.startswith("bwrap:") or "could not be cloned" in said or "keeper:" in said
        return f"{said} ({remedies.remedy(said, remedies.look())})" if cannot else said


def bwrap_command(limits: Limits) -> list[str]:
    """The whole command line.

    Raises:
        SandboxError: bwrap or a package is missing.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError("bubblewrap is not installed: install the package `bubblewrap` of your distribution")
    layout = find_layout()
    host = remedies.look()
    command = [bwrap, "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if host.is_root:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_SETPCAP"):
            command += ["--cap-add", capability]  # the last two are used at the start, then dropped
    else:
        command += ["--unshare-user"]
        if host.uid == 0:  # only CAP_SETFCAP may map a namespace's root once more, as each session's own has to
            command += ["--uid", _SOMEBODY, "--gid", _SOMEBODY]
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
