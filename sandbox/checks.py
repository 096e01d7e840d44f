"""Checks this machine for the sandbox's requirements and known vulnerabilities, for `genprm doctor`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from . import opening, remedies
from .guest import seccomp
from .limits import Limits
from .results import SandboxError


class Level(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a diagnosis."""

    name: str
    level: Level
    text: str


# The first release with a fix for each escape.
_RUNC_FIXES = (
    ((1, 1, 12), "CVE-2024-21626 (a leaked descriptor exposes the host's files)"),
    ((1, 2, 8), "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881 (masked paths can be redirected)"),
)
_ENGINE_FIXES = (
    ((23, 0, 0), "engines before 23 get no security fixes upstream"),
    ((25, 0, 0), "the default profile allows io_uring (the sandbox's own profile does not)"),
)
_PROBE = Limits(memory_mb=64)
_OLD_KERNEL = (5, 11)
"""Older kernels lack pidfd, close_range or seccomp's fast path."""


def diagnose() -> list[Check]:
    """Runs all checks, the most important first. Takes a second or two; changes nothing."""
    return [
        _kernel(),
        _architecture(),
        _seccomp(),
        _landlock(),
        _control_groups(),
        _user_namespaces(),
        *_docker(),
        _bubblewrap(),
        *_podman(),
        _gvisor(),
        *_remote(),
    ]


def _kernel() -> Check:
    release = platform.release()
    version = _version(release)
    if platform.system() != "Linux":
        return Check("kernel", Level.FAIL, f"{platform.system()}: the sandbox runs on Linux")
    if version < _OLD_KERNEL:
        return Check("kernel", Level.FAIL, f"Linux {release}: 5.11 or later is needed")
    return Check("kernel", Level.OK, f"Linux {release}")


def _architecture() -> Check:
    if (reason := seccomp.why_unknown()) is not None:
        return Check("architecture", Level.FAIL, f"{reason}; a sandbox service on another machine still serves")
    return Check("architecture", Level.OK, platform.machine())


def _seccomp() -> Check:
    try:
        actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text(encoding="ascii")
    except OSError:
        return Check("seccomp", Level.FAIL, "this kernel has no seccomp filters: sessions cannot be confined")
    if "errno" not in actions:
        return Check("seccomp", Level.FAIL, f"this kernel's seccomp supports only {actions.strip()}")
    return Check("seccomp", Level.OK, "filters are available")


def _landlock() -> Check:
    from .guest.kernel import landlock_version

    version = landlock_version()
    if not version:
        return Check("landlock", Level.WARN, "not in this kernel; in Docker, sessions can list /proc")
    return Check("landlock", Level.OK, f"version {version}")


def _control_groups() -> Check:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return Check("control groups", Level.OK, "version 2")
    return Check(
        "control groups", Level.WARN, "version 1: escapes by release_agent (CVE-2022-0492) exist there for containers "
        "with CAP_SYS_ADMIN, which this sandbox never grants",
    )  # fmt: skip


def _user_namespaces() -> Check:
    host = remedies.look()
    if host.is_root:
        return Check("user namespaces", Level.OK, "not needed: this is root")
    if host.most_namespaces and host.userns_switch and not host.apparmor_restricts:
        return Check("user namespaces", Level.OK, f"available (at most {host.most_namespaces})")
    return Check("user namespaces", Level.WARN, remedies.remedy("", host))


def _docker() -> list[Check]:
    import docker.errors
    import requests.exceptions

    from .docker import connect
    from .image import find_image, why_no_image

    try:
        client = connect()
    except SandboxError as error:
        return [Check("docker engine", Level.WARN, str(error))]
    checks: list[Check] = []
    try:
        with contextlib.closing(client):
            version = client.version()
            info = client.info()
            checks.append(_known_escapes("docker engine", str(version.get("Version", "?")), _ENGINE_FIXES))
            runc = next((part for part in version.get("Components", []) if part.get("Name") == "runc"), None)
            if runc is not None:
                checks.append(_known_escapes("runc", str(runc.get("Version", "?")), _RUNC_FIXES))
            options = " ".join(info.get("SecurityOptions") or [])
            if "seccomp" not in options:
                checks.append(Check("docker seccomp", Level.FAIL, "the engine was built without seccomp"))
            if "userns" in options or "rootless" in options:
                checks.append(
                    Check("docker users", Level.OK, "root in a container is an unprivileged user on the host")
                )
            else:
                text = "root in a container is root on the host; userns-remap or rootless mode would add protection"
                checks.append(Check("docker users", Level.WARN, text))
            if tag := find_image(client):
                checks.append(Check("sandbox image", Level.OK, tag))
                checks.append(_launched("docker"))
            elif reason := why_no_image(client):
                checks.append(Check("sandbox image", Level.WARN, reason))
            else:
                checks.append(Check("sandbox image", Level.OK, "not built yet; built on first use"))
    except (docker.errors.DockerException, requests.exceptions.RequestException, SandboxError) as error:
        checks.append(Check("docker engine", Level.WARN, f"does not work: {error}"))
    return checks


def _known_escapes(name: str, version: str, fixes: tuple[tuple[tuple[int, ...], str], ...]) -> Check:
    open_ones = [text for fixed, text in fixes if _version(version) < fixed]
    if not open_ones:
        return Check(name, Level.OK, version)
    return Check(name, Level.WARN, f"{version}, unless your distribution has patched it: {'; '.join(open_ones)}")


def _launched(backend: str, version: str = "", name: str | None = None) -> Check:
    """Start a guest as a run would: what else is looked at says too little."""
    reason = asyncio.run(opening.why_not(backend, _PROBE))
    name = name or backend
    return Check(name, Level.OK, version or "a guest starts") if reason is None else Check(name, Level.WARN, reason)


def _bubblewrap() -> Check:
    if shutil.which("bwrap") is None:
        return Check("bubblewrap", Level.WARN, "not installed: install the package `bubblewrap` of your distribution")
    answer = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False)
    return _launched("bubblewrap", answer.stdout.strip())


def _podman() -> list[Check]:
    if shutil.which("podman") is None:
        return []
    from .podman import has_image

    try:
        built = has_image()
    except SandboxError as error:
        return [Check("podman", Level.WARN, str(error))]
    if not built:
        return [Check("podman", Level.OK, "works; the sandbox image is built there on first use")]
    return [_launched("podman")]


def _remote() -> list[Check]:
    """The services that this environment names."""
    named = os.environ.get("GENPRM_SANDBOX", "")
    return [_launched(named, name="remote sandbox")] if ":" in named else []


def _gvisor() -> Check:
    if shutil.which("runsc") is None:
        return Check("gvisor", Level.OK, "not installed, and not needed")
    return Check(
        "gvisor",
        Level.OK,
        "installed, but guests do not start under it: it lacks CLONE_PARENT and /proc/PID/task/TID/children",
    )


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"\D*(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)
