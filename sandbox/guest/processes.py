"""What the supervisor knows of processes: which there are, how they ended, and how to be rid of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass

_ALIVE_AFTER_KILL_S = 2.0


def wake(number: int, frame: object) -> None:
    """A signal handler: the signal has written to the wake-up descriptor, that is all."""


def readable(descriptor: int, deadline: float) -> bool:
    """Wait until there is something to read; False when the deadline on the monotonic clock passes first.

    By poll: select knows no descriptor above 1023, and hundreds of sessions hold more.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    status: int
    """Wait status."""
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Process:
    """A process held by a descriptor, so that a signal never reaches a later process of the same number."""

    pid: int
    descriptor: int

    @classmethod
    def hold(cls, pid: int) -> Process:
        """Take hold of a live process."""
        return cls(pid, os.pidfd_open(pid))

    def signal(self, number: int) -> None:
        """Send a signal; the process being gone is fine."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)

    def release(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def read(path: str) -> bytes:
    """A small file of /proc: in a third of the time of `open`, which matters for those read with every snippet."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def children(proc: str, pid: int) -> list[int]:
    """Children of all threads of a process, oldest first."""
    found: list[int] = []
    try:
        for task in os.listdir(f"{proc}/{pid}/task"):
            found += map(int, read(f"{proc}/{pid}/task/{task}/children").split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descendants(proc: str, pid: int) -> list[int]:
    """Children, their children, and so on."""
    found: list[int] = []
    front = children(proc, pid)
    while front:
        found += front
        front = [grandchild for child in front for grandchild in children(proc, child)]
    return found


def of_user(proc: str, uid: int) -> list[int]:
    """All live processes of a user."""
    return [pid for pid in everyone(proc) if real_user(proc, pid) == uid]


def everyone(proc: str) -> list[int]:
    """Numbers of all processes, zombies too."""
    return [int(name) for name in os.listdir(proc) if name.isdecimal()]


def real_user(proc: str, pid: int) -> int | None:
    """Real uid of a live process."""
    try:
        for line in read(f"{proc}/{pid}/status").splitlines():
            if line.startswith(b"State:") and line.split()[1] in b"ZX":
                return None
            if line.startswith(b"Uid:"):
                return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None


def is_zombie(proc: str, pid: int) -> bool:
    """Whether it is dead already."""
    try:
        return read(f"{proc}/{pid}/stat").rpartition(b")")[2].split()[0] in b"ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def resident_kb(proc: str, pid: int) -> int:
    """Resident memory of a process, pages shared with the zygote among them."""
    try:
        return int(read(f"{proc}/{pid}/statm").split()[1]) * (os.sysconf("SC_PAGE_SIZE") >> 10)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kill(pids: list[int]) -> None:
    """SIGSTOP all, then SIGKILL all: a process that forks cannot outrun it."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def deadline() -> float:
    """Until when something that was killed has to be gone."""
    return time.monotonic() + _ALIVE_AFTER_KILL_S


def oom_kills() -> int:
    """How often the kernel has killed for lack of memory in this control group; 0 where it does not say."""
    for path, key in (
        ("/sys/fs/cgroup/memory.events", "oom_kill"),
        ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
    ):
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    name, _, value = line.partition(" ")
                    if name == key:
                        return int(value)
        except (OSError, ValueError):
            continue
    return 0
