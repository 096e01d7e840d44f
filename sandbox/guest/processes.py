"""Lists, follows and ends processes for the supervisor."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import time
from dataclasses import dataclass

_GONE_S = 2.0
_STAND_S = 1.0
_PAUSE_S = 0.0003
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") >> 10


def wake(number: int, frame: object) -> None:
    """A signal handler that does nothing: the signal writes to the wake-up descriptor."""


def wake_on_child_exit() -> int:
    """Returns a descriptor that is readable when a child has ended or stopped."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, wake)
    return readable


def readable(descriptor: int, deadline: float) -> bool:
    """Waits until there is something to read; False if the deadline on the monotonic clock passes first.

    Uses poll: select cannot handle descriptors above 1023, and hundreds of sessions have more.
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


@functools.cache
def _has_descriptors() -> bool:
    """Whether this kernel has descriptors of processes, and no filter forbids them."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Process:
    """A process held by a descriptor, so that a signal never reaches a later process with the same id.

    Kernels before 5.3, and gVisor, have no such descriptors. There the id serves: it cannot pass to another
    process before its parent, the supervisor or a keeper, has reaped it.
    """

    pid: int
    descriptor: int | None
    inner: int
    """Its id in its own session's namespace."""

    @classmethod
    def hold(cls, pid: int, inner: int) -> Process:
        """Opens a live process. Raises ProcessLookupError if it is gone."""
        if _has_descriptors():
            return cls(pid, os.pidfd_open(pid), inner)
        os.kill(pid, 0)
        return cls(pid, None, inner)

    def signal(self, number: int) -> None:
        """Sends a signal, unless the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            if self.descriptor is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(self.descriptor, number)

    def release(self) -> None:
        """Closes the descriptor."""
        if self.descriptor is not None:
            os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Stat:
    """A snapshot of a process."""

    state: str
    """One letter, as in proc(5)."""
    parent: int
    threads: int
    resident_kb: int
    """Including pages shared with the zygote."""


_GONE = Stat("X", 0, 0, 0)


def read(path: str) -> bytes:
    """Reads a small file of /proc in a third of the time of `open`, for those read with every snippet."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def stat(proc: str, pid: int, task: int | None = None) -> Stat:
    """Reads the state of a process or thread. State X if it is gone."""
    try:
        name = f"{proc}/{pid}/stat" if task is None else f"{proc}/{pid}/task/{task}/stat"
        fields = read(name).rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return _GONE
    if len(fields) < 22:
        return _GONE
    return Stat(fields[0].decode("ascii"), int(fields[1]), int(fields[17]), int(fields[21]) * _PAGE_KB)


def stands(proc: str, pid: int) -> Stat | None:
    """Waits until every thread of a process that was sent SIGSTOP has stopped.

    SIGSTOP does not abort a clone in progress, so before that a child could still appear and keep running.

    Returns:
        Its state then; None if it is gone, or does not stop within a second.
    """
    end = time.monotonic() + _STAND_S
    while True:
        found = stat(proc, pid)
        if found.state in "ZX":
            return None
        if found.state in "tT" and (found.threads == 1 or _all_stand(proc, pid)):
            return found
        if time.monotonic() > end:
            return None
        time.sleep(_PAUSE_S)


def _all_stand(proc: str, pid: int) -> bool:
    try:
        tasks = os.listdir(f"{proc}/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return all(stat(proc, pid, int(task)).state in "tTZX" for task in tasks)


def children(proc: str, pid: int) -> list[int]:
    """Children of all threads of a process, oldest first. Exact only while the process is stopped."""
    found: list[int] = []
    try:
        for task in os.listdir(f"{proc}/{pid}/task"):
            found += map(int, read(f"{proc}/{pid}/task/{task}/children").split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descendants(proc: str, pid: int) -> list[int]:
    """All descendants, without zombies."""
    found: list[int] = []
    front = children(proc, pid)
    while front:
        found += [child for child in front if stat(proc, child).state not in "ZX"]
        front = [grandchild for child in front for grandchild in children(proc, child)]
    return found


def of_user(proc: str, uid: int) -> list[int]:
    """All live processes of a user."""
    return [pid for pid in everyone(proc) if real_user(proc, pid) == uid]


def everyone(proc: str) -> list[int]:
    """Ids of all processes, including zombies."""
    return [int(name) for name in os.listdir(proc) if name.isdecimal()]


def real_user(proc: str, pid: int) -> int | None:
    """Real uid of a live process."""
    lines = _status(proc, pid)
    state = lines.get(b"State", b"X")
    uids = lines.get(b"Uid", b"").split()
    return int(uids[0]) if uids and state[:1] not in b"ZX" else None


def inner_number(proc: str, pid: int) -> int | None:
    """The id of a process in its own process namespace."""
    numbers = _status(proc, pid).get(b"NSpid", b"").split()
    return int(numbers[-1]) if numbers else None


def _status(proc: str, pid: int) -> dict[bytes, bytes]:
    try:
        text = read(f"{proc}/{pid}/status")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found: dict[bytes, bytes] = {}
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        found[name] = value.strip()
    return found


def open_descriptors(proc: str, pid: int) -> int:
    """Number of descriptors of a process; 0 before Linux 6.2, where it is unknown."""
    try:
        return os.stat(f"{proc}/{pid}/fd").st_size
    except OSError:
        return 0


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    """Sends a signal to processes; ignores those that are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def deadline() -> float:
    """The deadline for killed processes to be gone."""
    return time.monotonic() + _GONE_S


def oom_kills() -> int:
    """Number of the kernel's out-of-memory kills in this control group; 0 if unknown."""
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
