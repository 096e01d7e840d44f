"""A session as the supervisor sees it: a line of processes of which the last good one is kept.

`head` is the process whose memory is the session's state. A snippet runs in `runner`: the head itself while nothing is
at stake, a clone of it later. When the snippet ends well the runner becomes the head; else the head lives on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from dataclasses import dataclass

from . import frames, processes
from .keeper import EXIT
from .output import drain
from .processes import Exit, Process
from .session import COMMAND, LENGTH, MAX_REPORT
from .worker import Worker, Zygote

_OUTCOMES = frozenset({"ok", "exception", "exit", "memory", "invalid_code"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a snippet ended."""

    status: str
    error: str | None

    @property
    def kept(self) -> bool:
        """Whether its effects stay."""
        return self.status in ("ok", "exception")


class SessionBroken(Exception):
    """The snippet broke the session's own channel."""


class Session:
    """One session's processes and channels."""

    def __init__(self, worker: Worker, zygote: Zygote) -> None:
        ends = worker.request(zygote)
        self.commands, self.reports, self.output = ends.commands, ends.reports, ends.output
        self._worker, self._zygote = worker, zygote
        self._uid, self._scratch = ends.uid, ends.scratch
        self._keeper_end = ends.keeper
        self.exits = ends.keeper.fileno() if ends.keeper else worker.woken
        self._keeper: Process | None = None
        self._head: Process | None = None
        self._runner: Process | None = None
        self._inner: dict[int, int] = {}
        """Process numbers as the session knows them."""
        self._ends: dict[int, Exit] = {}
        """By inner number, in a session with a keeper."""
        self._buffer = bytearray()
        self._keeper_buffer = bytearray()
        self._wiped: int | None = None
        self._vanished: int | None = None
        """Inner number of a runner that ended too soon to be held."""
        self._pending = memoryview(b"")
        self._nonce = ""
        self._used = False
        self._had_strays = False
        self._fresh_kb = 0
        self.held_kb = 0
        """Memory that the session holds at rest."""

    def wait_ready(self, deadline: float) -> None:
        """Wait until it is confined and waits for code."""
        if self._head is not None:
            return
        pid = self._worker.answer(self._zygote)
        report = self._next_report(deadline)
        if type(report.get("ready")) is not int:
            raise RuntimeError(f"a session could not be set up: {report.get('broken', report)}")
        if self._worker.own_users:
            self._head = Process.hold(pid)
        else:
            self._keeper = Process.hold(pid)
            (head,) = processes.children(self._worker.proc, pid)
            self._head = Process.hold(head)
        self._inner[self._head.pid] = frames.integer(report, "ready")
        self._fresh_kb = processes.resident_kb(self._worker.proc, self._head.pid)

    @property
    def alive(self) -> bool:
        """Whether the state is still there."""
        if self._head is None:
            return False
        if self._worker.own_users:
            self._worker.reap()
        else:
            self._read_keeper()
        return self._exit_of(self._head) is None

    @property
    def has_state(self) -> bool:
        """Whether any snippet has left effects."""
        return self._used

    def pids(self) -> set[int]:
        """Processes that belong here."""
        return {process.pid for process in (self._keeper, self._head) if process}

    def begin(self, code: str) -> None:
        """Start on a snippet."""
        assert self._head is not None
        self._nonce = secrets.token_hex(8)
        source = code.encode("utf-8", "surrogatepass")
        command = COMMAND.pack(len(source), self._nonce.encode("ascii"), self._used)
        self._pending = memoryview(command + source)
        self._buffer.clear()
        self._vanished = None
        drain(self.output, None)
        if self._used:
            self._head.signal(signal.SIGCONT)
        else:
            self._runner = self._head

    def send(self) -> bool:
        """Write on; True when the session has it all."""
        try:
            self._pending = self._pending[os.write(self.commands, self._pending) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return True  # its exit tells more
        return not self._pending

    def read_report(self) -> Verdict | None:
        """Take in what the session reports; its outcome if that is among it."""
        while True:
            report = self._take_report()
            if report is None:
                return None
            if report.get("nonce") != self._nonce:
                raise SessionBroken("wrote to the sandbox's own channel")
            if "runner" in report:
                self._adopt(frames.integer(report, "runner"))
                continue
            outcome, error = report.get("outcome"), report.get("error")
            if outcome not in _OUTCOMES or self._runner is None or not (error is None or type(error) is str):
                raise SessionBroken("wrote to the sandbox's own channel")
            if outcome == "ok" and error is not None:
                raise SessionBroken("wrote to the sandbox's own channel")
            return Verdict(str(outcome), error)

    def read_exit(self) -> Verdict | None:
        """What the end of the runner means, if it has ended."""
        if self._worker.own_users:
            self._worker.reap()
        else:
            self._read_keeper()
        if (verdict := self.read_report()) is not None:
            return verdict
        if self._vanished is not None:  # ended, and was reaped by the keeper, before it could be taken hold of
            ended = self._ends.get(self._vanished)
        else:
            running = self._runner or self._head
            assert running is not None
            ended = self._exit_of(running)
        return None if ended is None else self._judge(ended)

    def freeze(self) -> None:
        """Stop everything that the snippet has left running, before it can write more."""
        if self._runner is not None:
            self._runner.signal(signal.SIGSTOP)

    def settle(self, verdict: Verdict) -> None:
        """Keep the runner or the state before it, and clear away the rest."""
        previous, runner = self._head, self._runner
        self._runner = None
        if verdict.kept and runner is not None:
            self._head = runner
            losers = [previous] if previous is not runner else []
        else:
            self._head = previous if self._used else None
            losers = [process for process in (runner, previous) if process and process is not self._head]
            losers = list({process.pid: process for process in losers}.values())
        if self._head is not None:
            self._head.signal(signal.SIGSTOP)
            self._worker.known.add(self._head.pid)
        for process in losers:
            assert process is not None
            process.signal(signal.SIGKILL)
        if self._worker.own_users:
            self._clear_user([process for process in losers if process], wait=not verdict.kept)
        else:
            self._clear_namespace()
        for process in losers:
            assert process is not None
            self._inner.pop(process.pid, None)
            process.release()
        self._used = self._head is not None
        if self._head is not None:
            self.held_kb = max(0, processes.resident_kb(self._worker.proc, self._head.pid) - self._fresh_kb)

    def close(self) -> None:
        """End it and leave nothing behind."""
        for process in (self._keeper, self._head):
            if process is not None:
                process.signal(signal.SIGKILL)
                self._worker.known.discard(process.pid)
        if self._worker.own_users:
            if self._had_strays:
                self._worker.kill_user(self._uid, None)
            self._worker.wipe(self._scratch, self._uid)
            self._worker.remove_scratch(self._scratch)
        for process in (self._keeper, self._head):
            if process is not None:
                process.release()
        for descriptor in (self.commands, self.reports, self.output):
            os.close(descriptor)
        if self._keeper_end is not None:
            self._keeper_end.close()
        self._worker.reap()
        self._worker.forget_strays()

    def _clear_user(self, losers: list[Process], *, wait: bool) -> None:
        worker = self._worker
        for process in losers:
            worker.known.discard(process.pid)
            if wait and not worker.wait_gone(process.pid):
                raise RuntimeError(f"process {process.pid} of a session survives SIGKILL")
        keep = self._head.pid if self._head else None
        worker.reap()
        if worker.has_strays(self._uid, keep):
            self._had_strays = True
            worker.kill_user(self._uid, keep)
        worker.wipe(self._scratch, self._uid)
        worker.forget_strays()

    def _clear_namespace(self) -> None:
        assert self._keeper is not None
        assert self._keeper_end is not None
        keep = self._head.pid if self._head else None
        end = processes.deadline()
        while pids := [
            pid
            for pid in processes.descendants(self._worker.proc, self._keeper.pid)
            if pid != keep and not processes.is_zombie(self._worker.proc, pid)
        ]:
            processes.kill(pids)
            if time.monotonic() > end:
                raise RuntimeError(f"processes {pids} of a session survive SIGKILL")
        self._wiped = None
        self._keeper_end.sendall(b"w")
        while self._wiped is None:
            if not processes.readable(self.exits, end):
                raise RuntimeError("a session's keeper does not answer")
            self._read_keeper()
        if self._wiped:
            raise RuntimeError(f"{self._wiped} entries of a session's scratch cannot be removed")

    def _adopt(self, inner: int) -> None:
        """The clone that runs the snippet has said which process it is. Believe it only if it can be true."""
        worker = self._worker
        assert self._head is not None
        if self._runner is not None:
            raise SessionBroken("wrote to the sandbox's own channel")
        if worker.own_users:
            worker.reap()
            outer = inner
            if inner in worker.known or (
                inner not in worker.exits and processes.real_user(worker.proc, inner) != self._uid
            ):
                raise SessionBroken("wrote to the sandbox's own channel")
        else:
            assert self._keeper is not None
            mine = [pid for pid in processes.children(worker.proc, self._keeper.pid) if pid != self._head.pid]
            outer = mine[0] if mine else 0
        with contextlib.suppress(ProcessLookupError):
            if outer:
                self._runner = Process.hold(outer)
                self._inner[outer] = inner
                return
        self._vanished = inner

    def _exit_of(self, process: Process) -> Exit | None:
        if self._worker.own_users:
            return self._worker.exits.get(process.pid)
        return self._ends.get(self._inner[process.pid])

    def _judge(self, ended: Exit) -> Verdict:
        settings = self._worker.settings
        if os.WIFEXITED(ended.status):
            return Verdict("exit", f"the process ended by itself with code {os.WEXITSTATUS(ended.status)}")
        number = os.WTERMSIG(ended.status)
        if number in (signal.SIGKILL, signal.SIGXCPU) and ended.cpu_s >= settings.cpu_s - 0.05:
            return Verdict("timeout", f"CPU limit of {settings.cpu_s:g} s reached")
        if number == signal.SIGKILL and self._worker.oom_killed():
            return Verdict("memory", "killed by the kernel for lack of memory")
        return Verdict("killed", f"died of {signal.Signals(number).name}")

    def _next_report(self, deadline: float) -> dict[str, object]:
        while (report := self._take_report()) is None:
            if not processes.readable(self.reports, deadline):
                raise RuntimeError("a session was not ready in time")
        return report

    def _take_report(self) -> dict[str, object] | None:
        while len(self._buffer) <= MAX_REPORT:
            if len(self._buffer) >= LENGTH.size:
                (size,) = LENGTH.unpack_from(self._buffer)
                if not 2 <= size <= MAX_REPORT:
                    raise SessionBroken("wrote to the sandbox's own channel")
                end = LENGTH.size + size
                if len(self._buffer) >= end:
                    payload = bytes(self._buffer[LENGTH.size : end])
                    del self._buffer[:end]
                    try:
                        return frames.decode(payload)
                    except frames.FrameError:
                        raise SessionBroken("wrote to the sandbox's own channel") from None
            try:
                data = os.read(self.reports, 1 << 16)
            except BlockingIOError:
                return None
            if not data:
                if self._head is None:
                    raise RuntimeError("a session ended while it was set up")
                return None
            self._buffer += data
        raise SessionBroken("wrote to the sandbox's own channel")

    def _read_keeper(self) -> None:
        assert self._keeper_end is not None
        try:
            data = self._keeper_end.recv(4096, 0x40)  # MSG_DONTWAIT
        except BlockingIOError:
            return
        if not data:
            raise SessionBroken("its processes were ended from outside")
        self._keeper_buffer += data
        while len(self._keeper_buffer) >= EXIT.size:
            pid, status, cpu_s = EXIT.unpack_from(self._keeper_buffer)
            del self._keeper_buffer[: EXIT.size]
            if pid:
                self._ends[pid] = Exit(status, cpu_s)
            else:
                self._wiped = status
