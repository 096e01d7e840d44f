"""What keeps guests from being isolated on this machine, and the one thing to change about it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_OF_ROOT = frozenset({5, 6, 7, 8, 21})
"""KILL, SETGID, SETUID, SETPCAP, SYS_ADMIN."""
MANY_USERS = 60_000
"""Number of users for a guest with one user per session."""
_ELSEWHERE = "or run the code on another machine (`genprm sandbox serve` there, --sandbox https://HOST:PORT here)"
_PROFILE = "`profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }` in /etc/apparmor.d/bwrap"


@dataclass(frozen=True, slots=True)
class Host:
    """The properties of a machine that decide whether namespaces can isolate a guest."""

    uid: int
    capabilities: frozenset[int]
    mapped_users: int
    """Number of users in this process's namespace."""
    most_namespaces: int
    """The sysctl user.max_user_namespaces."""
    userns_switch: bool
    """Debian's kernel.unprivileged_userns_clone; on where there is no such switch."""
    apparmor_restricts: bool
    """Ubuntu's kernel.apparmor_restrict_unprivileged_userns."""
    filtered: bool
    """Whether a seccomp filter is on this process already, as in most containers."""
    container: str | None
    """`kubernetes`, `docker`, `podman`, `apptainer`, or None outside of containers."""

    @property
    def is_root(self) -> bool:
        """Whether every session can have its own user. Root in a container or a namespace often lacks the rights."""
        return self.uid == 0 and self.capabilities >= _OF_ROOT and self.mapped_users >= MANY_USERS


def look() -> Host:
    """Inspects this process and machine."""
    lines = [line.partition(":") for line in _read("/proc/self/status").splitlines()]
    status = {name: value for name, _, value in lines}
    mask = int(status.get("CapEff", "0").strip() or "0", 16)
    users = [line.split() for line in _read("/proc/self/uid_map").splitlines()]
    return Host(
        uid=os.getuid(),
        capabilities=frozenset(bit for bit in range(64) if mask >> bit & 1),
        mapped_users=sum(int(fields[2]) for fields in users if len(fields) == 3),
        most_namespaces=int(_read("/proc/sys/user/max_user_namespaces").strip() or "0"),
        userns_switch=_read("/proc/sys/kernel/unprivileged_userns_clone").strip() != "0",
        apparmor_restricts=_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == "1",
        filtered=status.get("Seccomp", "").strip() == "2",
        container=_container(),
    )


def remedy(complaint: str, host: Host) -> str:
    """Names the one change that lets bubblewrap isolate a guest here.

    Args:
        complaint: the output of bwrap or the guest.
        host: see `look`.
    """
    words = complaint.lower()
    if not host.most_namespaces:
        change = "user namespaces are switched off: `sysctl -w user.max_user_namespaces=15000`, as root of the machine"
    elif not host.userns_switch:
        change = "only root may create user namespaces: `sysctl -w kernel.unprivileged_userns_clone=1`, as root"
    elif "no space left" in words or "enospc" in words or "max_" in words:
        change = (
            f"the limit on namespaces, or on their nesting, is reached: raise `user.max_user_namespaces` "
            f"(it is {host.most_namespaces})"
        )
    elif host.apparmor_restricts:
        change = (
            "AppArmor forbids user namespaces to ordinary users: `sysctl -w "
            f"kernel.apparmor_restrict_unprivileged_userns=0`, or allow them to bwrap alone ({_PROFILE})"
        )
    elif "mount proc" in words or "mounting proc" in words:
        change = f"parts of /proc are masked here: {_IN_CONTAINER_PROC.get(host.container or '', _MASKED)}"
    elif host.filtered:
        start = _IN_CONTAINER.get(host.container or "", _FILTERED)
        change = f"this container's seccomp profile forbids namespaces: {start}"
    else:
        change = "namespaces cannot be created here"
    return f"{change}; {_ELSEWHERE}"


_FILTERED = "start it with one that allows clone, unshare and mount"
_MASKED = "start this process where /proc is not masked"
_IN_CONTAINER = {
    "docker": "start it with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`",
    "podman": "start it with `--security-opt seccomp=unconfined --security-opt unmask=ALL`",
    "kubernetes": "give the pod `hostUsers: false`, `procMount: Unmasked` and `seccompProfile: {type: Unconfined}` "
    "(examples/deploy/kubernetes)",
}
_IN_CONTAINER_PROC = {
    "docker": "start the container with `--security-opt systempaths=unconfined`",
    "podman": "start the container with `--security-opt unmask=ALL`",
    "kubernetes": "give the container `procMount: Unmasked`, which needs `hostUsers: false` in the pod",
}


def _container() -> str | None:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    if "APPTAINER_CONTAINER" in os.environ or "SINGULARITY_CONTAINER" in os.environ:
        return "apptainer"
    if Path("/run/.containerenv").exists():
        return "podman"
    return "docker" if Path("/.dockerenv").exists() else None


def _read(path: str) -> str:
    """Reads a file of /proc; an empty text if there is none."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""
