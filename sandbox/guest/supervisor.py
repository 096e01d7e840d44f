"""The supervisor: answers the host, has sessions cloned, runs one snippet at a time and reports how it ended.

A single thread that runs no snippet code and reads only bounded bytes from snippets. How a snippet ended follows from
the kernel's report about its process, this clock and these limits; the session's own report only distinguishes the
kinds of normal endings.

A session is the unit of failure. Whatever a session does, prints, forges or leaves behind ends only that session: every
operation on one goes through `_contain`, which turns anything invalid into `killed`, with the reason. Only invalid
frames of the host, and the end of a zygote, end the guest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from . import frames, processes, rights, warmup
from .lineage import Holding, Lineage, Verdict
from .output import Output, drain
from .reports import BadReport, NotReady
from .session import reserve_descriptors
from .worker import GuestBroken, Worker, Zygote
from .zygote import Settings, serve

_SPARES = 2
_WARM_S = 110.0
"""Time limit for the first session, which waits for all libraries: half a second on an idle machine."""
_SPARE_S = 30.0
"""Time limit for cloning a process."""
_MOST_SESSIONS = 512
"""Above this, the oldest session is discarded: processes and descriptors are limited too."""
_DYING_S = 3.0
_HARD_OUTPUT = 16
"""A snippet that writes this many times the kept output is killed: the rest would only waste time."""
_LEAST_HARD_OUTPUT = 8 << 20
_TRIES = 3
_AT_REST = Holding(scratch_kb=8 << 10, inodes=1024, threads=128, descriptors=512)
"""Budget of all idle sessions, besides memory; above it the largest is discarded."""


@dataclass(frozen=True, slots=True)
class Config:
    """The guest's configuration from the host."""

    wall_s: float
    cpu_s: float
    memory_mb: int
    output_kb: int
    lane_mb: int
    """Memory budget of idle sessions; above it the largest are discarded (the host replays them)."""
    proc: str
    readable: list[str]


_RESOURCES = tuple(field.name for field in dataclasses.fields(Holding))


class HostGone(Exception):
    """The host closed its end, or died."""


class Supervisor:
    """Serves one host over two descriptors."""

    def __init__(self, config: Config, requests: int, replies: int) -> None:
        self._config = config
        self._requests, self._replies = requests, replies
        self._sessions: dict[int, Lineage] = {}
        self._spares: deque[Lineage] = deque()
        self._ended: dict[int, str] = {}
        """Sessions ended for misbehaviour, with the reason, until the host closes them."""
        self._budget = dataclasses.replace(_AT_REST, memory_kb=config.lane_mb << 10)
        own_users, landlock = rights.take(config.proc)
        self._settings = Settings(
            config.memory_mb, config.cpu_s, config.proc, own_users, landlock, tuple(config.readable)
        )
        self._woken = processes.wake_on_child_exit()
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
        """Serves until the host is gone."""
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
        code = frames.text(request, "code")
        resumes = frames.boolean(request, "resumes")
        session = self._sessions.get(key)
        if session is not None and not self._contain(key, session.lives):
            self._drop(key)
            session = None
        if (reason := self._ended.get(key)) is not None:
            self._reply(number, Verdict("killed", reason), Output(2), 0.0)
            return
        if session is None:
            if resumes:
                self._send({"id": number, "lost": True})
                return
            session = self._sessions[key] = self._fresh(code)
        output = Output(self._config.output_kb << 10)
        started = time.monotonic()
        verdict = self._judge(session, code, output, started + self._config.wall_s)
        self._reply(number, verdict, output, time.monotonic() - started)
        # The host has its answer; the rest happens between snippets.
        self._contain(key, lambda: session.settle(verdict))
        if key in self._ended or not session.has_state:
            self._drop(key)
        self._refill()
        self._give_up_largest(keep=session)

    def _contain(self, key: int, step: Callable[[], object]) -> object:
        """Runs an operation on a session; any error ends only this session."""
        try:
            return step()
        except (HostGone, GuestBroken):
            raise
        except Exception as error:
            self._ended[key] = frames.clip(f"the session was ended: {frames.encodable(str(error)) or repr(error)}")
            return None

    def _judge(self, session: Lineage, code: str, output: Output, deadline: float) -> Verdict:
        """Runs a snippet and reports how it ended."""
        try:
            verdict = self._watch(session, code, output, deadline)
            if verdict.status == "invalid_code" and verdict != (confirmed := self._confirm(code, deadline)):
                # It has run, but claims to be invalid code.
                return confirmed
            return verdict
        except (HostGone, GuestBroken):
            raise
        except BadReport as bad:
            # The order of its writes to the two channels is unknown, so none of its output is passed on.
            output.clear()
            return Verdict("killed", str(bad))
        except Exception as error:
            output.clear()
            return Verdict("killed", frames.clip(f"it could not be followed: {type(error).__name__}: {error}"))

    def _confirm(self, code: str, deadline: float) -> Verdict:
        """Checks in a fresh session whether code is valid Python."""
        session = self._fresh("")
        try:
            verdict = self._watch(session, code, Output(2), deadline, compile_only=True)
        finally:
            session.close()
        return Verdict("killed", str(BadReport())) if verdict.status == "ok" else verdict

    def _reply(self, number: int, verdict: Verdict, output: Output, duration_s: float) -> None:
        text, cut = output.text()
        reply: dict[str, object] = {
            "id": number,
            "status": verdict.status,
            "stdout": text,
            "error": verdict.error,
            "duration_s": round(duration_s, 6),
            "truncated": cut,
        }
        if self._worker.few_users:
            reply["leaving"] = True
        self._send(reply)

    def _watch(
        self, session: Lineage, code: str, output: Output, deadline: float, *, compile_only: bool = False
    ) -> Verdict:
        """Sends the code to the session and follows it to its end."""
        hard_limit = max(_LEAST_HARD_OUTPUT, _HARD_OUTPUT * self._config.output_kb << 10)
        session.begin(code, compile_only=compile_only)
        poll = select.poll()
        for descriptor in (session.output, session.reports.descriptor, session.exits):
            poll.register(descriptor, select.POLLIN)
        poll.register(self._requests, 0)  # hanging up is always reported
        poll.register(session.commands, select.POLLOUT)
        sending = True
        try:
            verdict = session.verdict()
            while verdict is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return Verdict("timeout", f"wall limit of {self._config.wall_s:g} s reached")
                events = dict(poll.poll(max(1, int(left * 1000))))
                if events.get(self._requests, 0) & (select.POLLHUP | select.POLLERR):
                    raise HostGone
                if session.commands in events and sending and session.send():
                    sending = False
                    poll.unregister(session.commands)
                for descriptor in (session.output, session.reports.descriptor):
                    if events.get(descriptor, 0) == select.POLLHUP:  # closed: poll would report it forever
                        poll.unregister(descriptor)
                if session.output in events:
                    drain(session.output, output)
                    if output.total > hard_limit:
                        return Verdict("output_limit", f"wrote more than {hard_limit} bytes")
                # Nothing else reaps while this loop runs, so no exit is missed.
                if session.reports.descriptor in events or session.exits in events:
                    verdict = session.verdict()
            return verdict
        finally:
            session.freeze()
            drain(session.output, output, hard_limit)

    def _fresh(self, code: str) -> Lineage:
        """Creates a session for a snippet."""
        why = ""
        for _ in range(_TRIES):
            session = None
            try:
                if warmup.scientific(code) and self._worker.scientific.warm():
                    session = Lineage(self._worker, self._worker.scientific)
                elif self._spares:
                    session = self._spares.popleft()
                else:
                    session = Lineage(self._worker, self._worker.zygote)
                session.wait_ready(time.monotonic() + _SPARE_S)
                # Requested now, the next one is cloned while this one works.
                self._refill()
                return session
            except (NotReady, BadReport, OSError) as error:
                why = str(error)
                if session is not None:
                    session.close()
                self._relieve()
        raise GuestBroken(f"no session can be set up: {why}")

    def _refill(self) -> None:
        while len(self._spares) < _SPARES:
            try:
                self._spares.append(Lineage(self._worker, self._worker.zygote))
            except NotReady:
                return  # retried when one is needed

    def _close(self, key: int) -> None:
        """The host has closed a session."""
        self._drop(key)
        self._ended.pop(key, None)

    def _drop(self, key: int) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.close()

    def _relieve(self) -> None:
        """Discards the session that holds most of the scarcest resource."""
        if self._sessions:
            self._drop(max(self._sessions, key=lambda key: sum(dataclasses.astuple(self._sessions[key].holding))))

    def _give_up_largest(self, keep: Lineage) -> None:
        """Discards idle sessions until there is room for the running one."""
        if len(self._sessions) > _MOST_SESSIONS:
            self._drop(next(key for key, session in self._sessions.items() if session is not keep))
        for name in _RESOURCES:
            # Never the one that has just run: rebuilt elsewhere, it would be lost again before its next snippet.
            held = {key: getattr(one.holding, name) for key, one in self._sessions.items() if one is not keep}
            budget = getattr(self._budget, name) - getattr(keep.holding, name)
            total = sum(held.values())
            while held and total > budget:
                key = max(held, key=lambda candidate: held[candidate])
                total -= held.pop(key)
                self._drop(key)

    def _stats(self) -> dict[str, object]:
        proc = self._config.proc
        self._worker.reap()
        end = time.monotonic() + _DYING_S
        for spare in list(self._spares):
            try:
                spare.wait_ready(time.monotonic() + _SPARE_S)
            except (NotReady, BadReport, OSError):
                self._spares.remove(spare)
                spare.close()
        self._worker.scientific.warm(_WARM_S)
        while True:  # killed processes may take a moment to disappear
            pids = processes.everyone(proc)
            strays = self._strays(pids)
            self._worker.reap()
            zombies = sum(processes.stat(proc, pid).state == "Z" for pid in pids)
            if not (strays or zombies) or time.monotonic() > end:
                break
            time.sleep(0.005)
        return {
            "processes": len(processes.everyone(proc)),
            "zombies": zombies,
            "sessions": len(self._sessions),
            "spares": len(self._spares),
            "descriptors": len(os.listdir(f"{proc}/self/fd")),
            "resident_kb": processes.stat(proc, os.getpid()).resident_kb,
            "zygote_kb": sum(processes.stat(proc, pid).resident_kb for pid in self._worker.zygotes),
            "held_kb": sum(session.holding.memory_kb for session in self._sessions.values()),
            "scratch_entries": self._worker.scratch_entries(),
            "strays": strays,
            "awake": sum(session.awake() for session in self._sessions.values()),
        }

    def _strays(self, pids: list[int]) -> int:
        """Live processes that belong to no session, zygote or supervisor."""
        expected = {1, os.getpid(), *self._worker.zygotes}
        for session in (*self._sessions.values(), *self._spares):
            expected |= session.pids()
        proc = self._config.proc
        return sum(pid not in expected and processes.stat(proc, pid).state not in "ZX" for pid in pids)

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


def main(config: Config) -> NoReturn:
    """Serves the host on the standard streams, reserved for this."""
    reserve_descriptors()
    requests, replies = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.set_inheritable(requests, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the host, which then closes its end of the streams.
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
