"""The supervisor: answers the host, has sessions cloned, runs one snippet at a time and says how it ended.

A single thread that runs no code of a snippet and reads nothing from one but bounded bytes. How a snippet ended is
what the kernel tells about its process, this clock and these limits; the session's own word only tells apart the ways
of ending well.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import NoReturn

from . import frames, kernel, processes, warmup
from .lineage import Session, SessionBroken, Verdict
from .output import Output, drain
from .session import reserve_descriptors
from .worker import Worker, Zygote
from .zygote import SCRATCH, Settings, serve

_SPARES = 2
_WARM_S = 110.0
"""The first one waits for every library to be loaded: half a second on an idle machine."""
_SPARE_S = 30.0
"""A machine that needs longer to clone a process is not fit to serve."""
_MOST_SESSIONS = 512
"""The oldest is given up above this: processes and descriptors are limited too."""
_DYING_S = 3.0
_HARD_OUTPUT = 16
"""A snippet that writes this many times what is kept is killed: the rest would only burn its time."""
_LEAST_HARD_OUTPUT = 8 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """What the host starts a guest with."""

    wall_s: float
    cpu_s: float
    memory_mb: int
    output_kb: int
    lane_mb: int
    """Memory that idle sessions may hold together; above it the largest are given up (the host replays them)."""
    proc: str
    readable: list[str]


class HostGone(Exception):
    """The host closed its end, or died."""


class Supervisor:
    """Serves one host over two descriptors."""

    def __init__(self, config: Config, requests: int, replies: int) -> None:
        self._config = config
        self._requests, self._replies = requests, replies
        self._sessions: dict[int, Session] = {}
        self._spares: deque[Session] = deque()
        own_users, landlock = _prepare(config.proc)
        self._settings = Settings(
            config.memory_mb, config.cpu_s, config.proc, own_users, landlock, tuple(config.readable)
        )
        self._woken = _wake_on_child_exit()
        ours, theirs = zip(*(socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)), strict=True)
        zygote = os.fork()
        if zygote == 0:
            for link in ours:
                link.close()
            os.close(requests)
            os.close(replies)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(theirs[0], theirs[1], self._settings)
        for link in theirs:
            link.close()
        self._worker = Worker(self._settings, self._woken, Zygote(ours[0], zygote), Zygote(ours[1]))

    def run(self) -> None:
        """Serve until the host is gone."""
        self._refill()
        self._spares[0].wait_ready(time.monotonic() + _WARM_S)
        self._send(
            {
                "hello": 1,
                "isolation": "users" if self._settings.own_users else "namespaces",
                "landlock": self._settings.landlock,
                "python": sys.version.split()[0],
            }
        )
        while True:
            self._wait_for_request()
            request = frames.decode(self._receive())
            kind = frames.text(request, "op")
            number = frames.integer(request, "id")
            if kind == "run":
                self._run(number, request)
            elif kind == "close":
                self._close(frames.integer(request, "session"))
            elif kind == "stats":
                self._send({"id": number, **self._stats()})
            else:
                raise frames.FrameError(f"unknown operation {kind!r}")

    def _run(self, number: int, request: dict[str, object]) -> None:
        key = frames.integer(request, "session")
        session = self._sessions.get(key)
        if session is not None and not session.alive:
            self._close(key)
            session = None
        if session is None:
            if frames.boolean(request, "resumes"):
                self._send({"id": number, "lost": True})
                return
            session = self._sessions[key] = self._fresh(frames.text(request, "code"))
        output = Output(self._config.output_kb << 10)
        started = time.monotonic()
        verdict = self._watch(session, frames.text(request, "code"), output, started + self._config.wall_s)
        duration = time.monotonic() - started
        text, cut = output.text()
        self._send(
            {
                "id": number,
                "status": verdict.status,
                "stdout": text,
                "error": verdict.error,
                "duration_s": round(duration, 6),
                "truncated": cut,
            }
        )
        # The host has its answer; what follows is paid between snippets.
        session.settle(verdict)
        if not session.has_state:
            self._close(key)
        self._refill()
        self._give_up_largest(keep=session)

    def _watch(self, session: Session, code: str, output: Output, deadline: float) -> Verdict:
        """Give the code to the session and see what becomes of it."""
        hard_limit = max(_LEAST_HARD_OUTPUT, _HARD_OUTPUT * self._config.output_kb << 10)
        session.begin(code)
        poll = select.poll()
        poll.register(session.output, select.POLLIN)
        poll.register(session.reports, select.POLLIN)
        poll.register(session.exits, select.POLLIN)
        poll.register(self._requests, 0)  # hanging up is always reported
        poll.register(session.commands, select.POLLOUT)
        sending = True
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    return Verdict("timeout", f"wall limit of {self._config.wall_s:g} s reached")
                events = dict(poll.poll(max(1, int(left * 1000))))
                if events.get(self._requests, 0) & (select.POLLHUP | select.POLLERR):
                    raise HostGone
                if session.commands in events and sending and session.send():
                    sending = False
                    poll.unregister(session.commands)
                if session.output in events:
                    drain(session.output, output)
                    if output.total > hard_limit:
                        return Verdict("output_limit", f"wrote more than {hard_limit} bytes")
                if session.reports in events and (verdict := session.read_report()):
                    return verdict
                if session.exits in events and (verdict := session.read_exit()):
                    return verdict
        except SessionBroken as broken:
            return Verdict("killed", str(broken))
        finally:
            session.freeze()
            drain(session.output, output, hard_limit)

    def _fresh(self, code: str) -> Session:
        """A new session for a snippet."""
        if warmup.scientific(code) and self._worker.scientific.warm():
            session = Session(self._worker, self._worker.scientific)
            session.wait_ready(time.monotonic() + _SPARE_S)
            return session
        if not self._spares:
            self._refill()
        spare = self._spares.popleft()
        spare.wait_ready(time.monotonic() + _SPARE_S)
        # Asked for now, the next one is cloned while this one works.
        self._refill()
        return spare

    def _refill(self) -> None:
        while len(self._spares) < _SPARES:
            self._spares.append(Session(self._worker, self._worker.zygote))

    def _close(self, key: int) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.close()

    def _give_up_largest(self, keep: Session) -> None:
        """Sessions at rest must leave room for the one that runs."""
        if len(self._sessions) > _MOST_SESSIONS:
            self._close(next(key for key, session in self._sessions.items() if session is not keep))
        # Never the one that has just run: brought back from elsewhere, it would be lost again before its next snippet.
        held = {key: session.held_kb for key, session in self._sessions.items() if session is not keep}
        budget = (self._config.lane_mb << 10) - keep.held_kb
        while held and sum(held.values()) > budget:
            key = max(held, key=lambda candidate: held[candidate])
            del held[key]
            self._close(key)

    def _stats(self) -> dict[str, object]:
        proc = self._config.proc
        self._worker.reap()
        end = time.monotonic() + _DYING_S
        for spare in self._spares:
            spare.wait_ready(time.monotonic() + _SPARE_S)
        self._worker.scientific.warm(_WARM_S)
        while True:  # what has been killed may take a moment to be gone
            pids = processes.everyone(proc)
            strays = self._strays(pids)
            self._worker.reap()
            zombies = sum(processes.is_zombie(proc, pid) for pid in pids)
            if not (strays or zombies) or time.monotonic() > end:
                break
            time.sleep(0.005)
        return {
            "processes": len(pids),
            "zombies": zombies,
            "sessions": len(self._sessions),
            "spares": len(self._spares),
            "descriptors": len(os.listdir(f"{proc}/self/fd")),
            "resident_kb": processes.resident_kb(proc, os.getpid()),
            "zygote_kb": sum(processes.resident_kb(proc, pid) for pid in self._worker.zygotes),
            "held_kb": sum(session.held_kb for session in self._sessions.values()),
            "scratch_entries": self._worker.scratch_entries(),
            "strays": strays,
        }

    def _strays(self, pids: list[int]) -> int:
        """Live processes that nobody should have."""
        expected = {1, os.getpid(), *self._worker.zygotes}
        for session in (*self._sessions.values(), *self._spares):
            expected |= session.pids()
        proc = self._config.proc
        return sum(pid not in expected and not processes.is_zombie(proc, pid) for pid in pids)

    def _wait_for_request(self) -> None:
        while True:
            ready, _, _ = select.select([self._requests, self._woken], [], [])
            if self._woken in ready:
                self._worker.reap()
            if self._requests in ready:
                return

    def _receive(self) -> bytes:
        header = self._read(frames.HEADER.size)
        return self._read(frames.length(header, frames.MAX_REQUEST))

    def _read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = os.read(self._requests, min(size, 1 << 20))
            if not part:
                raise HostGone
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _send(self, message: dict[str, object]) -> None:
        data = memoryview(frames.encode(message))
        try:
            while data:
                data = data[os.write(self._replies, data) :]
        except BrokenPipeError:
            raise HostGone from None


def _prepare(proc: str) -> tuple[bool, int]:
    """Take what rights this process has, use up those that are needed only now, and keep the rest."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kernel.become_subreaper()
    kernel.hide_memory()
    setuid, setgid, kill = 7, 6, 5
    have = kernel.capabilities(proc)
    own_users = os.getuid() == 0 and {setuid, setgid, kill} <= have and not _in_user_namespace(proc)
    if own_users:
        if kernel.CAP_SYS_ADMIN in have:  # bubblewrap cannot limit the number of files, a mount can
            kernel.mount_tmpfs(SCRATCH, "size=16m,nr_inodes=1k,mode=711")
        # A session may enter its own folder and see no other's. Some versions of runc give a tmpfs the mode of the
        # image's folder, whatever mode they are asked for.
        os.chmod(SCRATCH, 0o711)
        kernel.drop_capabilities(frozenset({setuid, setgid, kill}))
        kernel.hide_memory()
    return own_users, kernel.landlock_version()


def _in_user_namespace(proc: str) -> bool:
    """Whether only one user is mapped here."""
    with open(f"{proc}/self/uid_map", encoding="ascii") as file:
        return sum(int(line.split()[2]) for line in file) < 60000


def _wake_on_child_exit() -> int:
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, processes.wake)
    return readable


def main(config: Config) -> NoReturn:
    """Serve the host on the standard streams, which nothing else shall ever touch."""
    reserve_descriptors()
    requests, replies = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.set_inheritable(requests, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the host, which then closes its end.
    code = 0
    try:
        Supervisor(config, requests, replies).run()
    except HostGone:
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            print(f"supervisor: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = 1
    os._exit(code)
