"""A session from the supervisor's view: a line of processes, of which the last good one is kept.

`head` is the process whose memory is the session's state. A snippet runs in `runner`: at first in the head itself, as
there is no state to lose, later in a clone. If the snippet ends well, the runner becomes the head; otherwise the head
stays.

Nothing here trusts the session. Anything invalid raises `BadReport`, `NotReady` or `NotAlone`, which the supervisor
turns into the end of this session only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from dataclasses import dataclass

from . import processes
from .isolation import ByNamespace, ByUser, Isolation, NotAlone
from .output import drain
from .processes import Exit, Process
from .reports import BadReport, Crowded, NotReady, Outcome, Ready, Reports, Runner
from .scratch import Held
from .session import CLONE, COMMAND, COMPILE, KEPT_DESCRIPTORS, RUN
from .worker import Worker, Zygote

_DESCRIPTOR_KB = 32
"""Kernel memory attributed to an open descriptor: half of a pipe's buffer."""
_CPU_SHARE = 0.7
"""The kernel checks the limit by ticks but reports exact time, which is less on a busy host."""
_FILES_AT_REST = Held(kb=1024, inodes=64)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a snippet ended."""

    status: str
    error: str | None

    @property
    def kept(self) -> bool:
        """Whether its effects are kept."""
        return self.status in ("ok", "exception")


@dataclass(frozen=True, slots=True)
class Holding:
    """The resources of an idle session. Idle sessions share a budget; the largest is discarded."""

    memory_kb: int = 0
    scratch_kb: int = 0
    inodes: int = 0
    threads: int = 0
    descriptors: int = 0


class Lineage:
    """One session's processes and channels."""

    def __init__(self, worker: Worker, zygote: Zygote) -> None:
        ends = worker.request(zygote)
        self.commands, self.output = ends.commands, ends.output
        self.reports = Reports(ends.reports)
        self._worker, self._zygote, self._scratch, self._uid = worker, zygote, ends.scratch, ends.uid
        self._isolation: Isolation = ByUser(worker, ends) if worker.own_users else ByNamespace(worker, ends)
        self.exits = self._isolation.exits
        self._first: int | None = None
        """The process cloned by the zygote: its first one, or its keeper."""
        self._head: Process | None = None
        self._runner: Process | None = None
        self._vanished: int | None = None
        """Inner id of a runner that ended before it could be held."""
        self._pending = memoryview(b"")
        self._nonce = ""
        self._used = False
        self._alone = True
        """Whether the head is the only process, and is stopped or waiting."""
        self._fresh_kb = 0
        self.holding = Holding()

    def wait_ready(self, deadline: float) -> None:
        """Waits until it is confined and ready for code. Raises NotReady."""
        if self._head is not None:
            return
        if self._first is None:
            self._first = -1
            self._first = self._worker.answer(self._zygote, self._uid)
        while (report := self.reports.take("")) is None:
            if not processes.readable(self.reports.descriptor, deadline):
                raise NotReady("it was not ready in time")
            if self.reports.closed:
                raise NotReady("it ended during setup")
        if not isinstance(report, Ready):
            raise NotReady("it reported something else")
        self._head = self._isolation.ready(self._first, report.pid)
        self._fresh_kb = processes.stat(self._worker.proc, self._head.pid).resident_kb

    def lives(self) -> bool:
        """Whether the state still exists."""
        return self._head is not None and self._isolation.exit_of(self._head.inner) is None

    @property
    def has_state(self) -> bool:
        """Whether any snippet has left effects."""
        return self._used

    def awake(self) -> bool:
        """Whether it runs while it should be idle."""
        if self._head is None or not self._used:
            return False
        return processes.stat(self._worker.proc, self._head.pid).state not in "tTZX"

    def pids(self) -> set[int]:
        """Its processes."""
        return self._isolation.pids() | ({self._head.pid} if self._head else set())

    def begin(self, code: str, *, compile_only: bool = False) -> None:
        """Starts a snippet."""
        assert self._head is not None
        self._nonce = secrets.token_hex(8)
        source = code.encode("utf-8", "surrogatepass")
        how = COMPILE if compile_only else CLONE if self._used else RUN
        self._pending = memoryview(COMMAND.pack(len(source), self._nonce.encode("ascii"), how) + source)
        self._vanished = None
        self._alone = False
        if self._used:
            self.reports.forget()
            drain(self.output, None)
            self._head.signal(signal.SIGCONT)
        else:
            self._runner = self._head

    def send(self) -> bool:
        """Continues writing; True when the session has everything."""
        try:
            self._pending = self._pending[os.write(self.commands, self._pending) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return True  # its exit status tells more
        return not self._pending

    def verdict(self) -> Verdict | None:
        """How the snippet ended, if it has: by the session's report, or by its process's exit."""
        for _ in range(2):  # one report names the runner, one the outcome
            report = self.reports.take(self._nonce)
            if report is None:
                break
            if isinstance(report, Runner):
                self._adopt(report.pid)
            elif isinstance(report, Outcome) and self._runner is not None:
                return Verdict(report.status, report.error)
            elif isinstance(report, Crowded) and self._runner is None and self._used:
                return Verdict("killed", "its remaining threads and processes leave no room for another one")
            elif self._vanished is None:
                raise BadReport
        running = self._runner or self._head
        assert running is not None
        ended = self._isolation.exit_of(running.inner if self._vanished is None else self._vanished)
        if ended is None:
            return None
        if self._vanished is None and (report := self.reports.take(self._nonce)) is not None:
            # It may have reported just before.
            if isinstance(report, Outcome) and self._runner is not None:
                return Verdict(report.status, report.error)
            if isinstance(report, Runner) and self._runner is None:
                self._adopt(report.pid)
                return self.verdict()  # its end may have been recorded already
            raise BadReport
        return self._judge(ended)

    def freeze(self) -> None:
        """Stops the snippet before it can write more."""
        for process in (self._head, self._runner):
            if process is not None:
                process.signal(signal.SIGSTOP)

    def settle(self, verdict: Verdict) -> None:
        """Keeps the runner or the state before it, and removes everything else.

        Raises:
            NotAlone: the session cannot be reduced to one stopped process, or holds too many files.
        """
        previous, runner = self._head, self._runner
        self._runner = None
        if self._vanished is not None:
            self._isolation.forget(self._vanished)
        keep = runner if verdict.kept and runner is not None else previous if self._used else None
        if keep is None:  # the first snippet failed: the session starts again
            self._head = runner or previous
            return
        self._head, self._used = keep, True
        leaving = [process for process in (previous, runner) if process is not None and process is not keep]
        try:
            rest = self._isolation.clear(keep, leaving)
        finally:
            for process in leaving:
                process.release()
                self._isolation.forget(process.inner)
        if self._worker.own_users:
            self._worker.note_held(self._scratch, rest.files)
        spare = max(0, processes.open_descriptors(self._worker.proc, keep.pid) - KEPT_DESCRIPTORS)
        self.holding = Holding(
            memory_kb=max(0, rest.stat.resident_kb - self._fresh_kb) + rest.files.kb + spare * _DESCRIPTOR_KB,
            scratch_kb=rest.files.kb,
            inodes=rest.files.inodes,
            threads=rest.stat.threads - 1 + rest.dead,
            descriptors=spare,
        )
        if rest.files.kb > _FILES_AT_REST.kb or rest.files.inodes > _FILES_AT_REST.inodes:
            raise NotAlone(f"it holds {rest.files.kb} KiB in {rest.files.inodes} deleted files")
        self._alone = True

    def close(self) -> None:
        """Ends it and leaves nothing behind."""
        if self._first is None:  # the clone is being created
            with contextlib.suppress(NotReady):
                self._first = self._worker.answer(self._zygote, self._uid)
        if self._head is None and self._first is not None and self._first > 0:
            processes.kill([self._first])
            self._worker.dying.add(self._first)
        left = {process.pid: process for process in (self._head, self._runner) if process is not None}
        self._isolation.end(list(left.values()), alone=self._alone and self._head is not None)
        for process in left.values():
            process.release()
            self._isolation.forget(process.inner)
        for descriptor in (self.commands, self.reports.descriptor, self.output):
            os.close(descriptor)
        self._worker.reap()
        self._worker.forget_strays()

    def _adopt(self, inner: int) -> None:
        """Checks the clone's report of which process it is."""
        if self._runner is not None or self._vanished is not None or not self._used:
            raise BadReport
        assert self._head is not None
        self._runner = self._isolation.find(inner, self._head)
        if self._runner is None:
            self._vanished = inner
        self._head.signal(signal.SIGSTOP)

    def _judge(self, ended: Exit) -> Verdict:
        settings = self._worker.settings
        if os.WIFEXITED(ended.status):
            return Verdict("exit", f"the process ended by itself with code {os.WEXITSTATUS(ended.status)}")
        number = os.WTERMSIG(ended.status)
        if number in (signal.SIGKILL, signal.SIGXCPU) and ended.cpu_s >= _CPU_SHARE * settings.cpu_s:
            return Verdict("timeout", f"CPU limit of {settings.cpu_s:g} s reached")
        if number == signal.SIGKILL and self._worker.oom_killed():
            return Verdict("memory", "killed by the kernel for lack of memory")
        return Verdict("killed", f"died of {_signal_name(number)}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
