"""Isolation of a session's processes, and how they are found, counted and ended.

A session has either its own user (which needs root's right to change users), or its own namespaces with a keeper.
Between snippets a session is a single process with all threads stopped; `clear` ensures and checks this, and raises
`NotAlone` if it fails. `end` ends everything, in any state.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import Protocol

from . import processes, scratch
from .keeper import REPLY, STOP_ALL, WIPE
from .processes import Exit, Process, Stat
from .reports import BadReport, NotReady
from .scratch import Held
from .worker import Ends, Worker


class NotAlone(Exception):
    """A session cannot be reduced to one stopped process."""


@dataclass(frozen=True, slots=True)
class Rest:
    """The resources of an idle session."""

    stat: Stat
    files: Held
    """Deleted files that are still open or mapped."""
    dead: int
    """Zombie children."""


class Isolation(Protocol):
    """Isolates a session's processes."""

    exits: int
    """Readable when a process may have ended."""

    def ready(self, pid: int, inner: int) -> Process:
        """The session's first process. Raises NotReady."""
        ...

    def pids(self) -> set[int]:
        """Its processes other than the session's."""
        ...

    def find(self, inner: int, head: Process) -> Process | None:
        """The clone that reports to run the snippet; None if it has ended. Raises BadReport if it cannot be one."""
        ...

    def exit_of(self, inner: int) -> Exit | None:
        """How a process ended, if it has."""
        ...

    def clear(self, keep: Process, gone: list[Process]) -> Rest:
        """Leaves one stopped process and an empty folder. Raises NotAlone."""
        ...

    def forget(self, inner: int) -> None:
        """The session no longer needs a process."""
        ...

    def end(self, left: list[Process], *, alone: bool) -> None:
        """Ends everything. `alone`: all remaining processes are stopped and in `left`."""
        ...


class ByUser:
    """A session with its own user. Its processes are descendants of the supervisor."""

    def __init__(self, worker: Worker, ends: Ends) -> None:
        self.exits = worker.woken
        self._worker, self._uid, self._scratch = worker, ends.uid, ends.scratch

    def ready(self, pid: int, inner: int) -> Process:
        """The session's first process."""
        if inner != pid:
            raise NotReady(f"process {pid} claims to be {inner}")
        try:
            return Process.hold(pid, pid)
        except ProcessLookupError:
            raise NotReady("it has ended") from None

    def pids(self) -> set[int]:
        """Only the session's own."""
        return set()

    def find(self, inner: int, head: Process) -> Process | None:
        """A clone is a new child of the supervisor, of the session's user."""
        worker = self._worker
        if inner in worker.known:
            raise BadReport
        if inner in worker.exits:
            return None
        # A child's process id cannot be reused before the supervisor has reaped it.
        if processes.stat(worker.proc, inner).parent != os.getpid():
            raise BadReport
        if processes.real_user(worker.proc, inner) not in (self._uid, None):  # zombies have none
            raise BadReport
        try:
            process = Process.hold(inner, inner)
        except ProcessLookupError:
            raise BadReport from None
        worker.known.add(inner)
        return process

    def exit_of(self, inner: int) -> Exit | None:
        """The supervisor has reaped it."""
        self._worker.reap()
        return self._worker.exits.get(inner)

    def clear(self, keep: Process, gone: list[Process]) -> Rest:
        """Checks that nothing else exists: no child of these, and no unknown child of the supervisor."""
        worker = self._worker
        keep.signal(signal.SIGSTOP)
        alone = True
        for process in gone:  # they were sent SIGSTOP before
            if process.pid not in worker.exits:
                alone &= self._stands_childless(process) is not None
                process.signal(signal.SIGKILL)
                worker.dying.add(process.pid)
        rest = self._stands_childless(keep)
        worker.reap()
        dead = 0
        if rest is None or not alone or worker.strays():
            for process in gone:
                worker.wait_gone(process.pid)
            rest = self._purge(keep)
            dead = len(processes.children(worker.proc, keep.pid))
        if scratch.unlink_files(self._scratch):
            self._wipe()
        held = scratch.in_use(os.path.dirname(self._scratch))
        return Rest(rest, worker.files_held_besides(held), dead)

    def forget(self, inner: int) -> None:
        """The session no longer needs a process."""
        self._worker.forget(inner)

    def end(self, left: list[Process], *, alone: bool) -> None:
        """By user: all processes, known or not, including those just being cloned."""
        worker = self._worker
        for process in left:
            if process.pid not in worker.exits:
                process.signal(signal.SIGKILL)
                worker.dying.add(process.pid)
        if not alone:
            worker.signal_user(self._uid, signal.SIGKILL)
            for process in left:
                worker.wait_gone(process.pid)
            # A process that has lost its parent is now a child of the supervisor.
            end = processes.deadline()
            while (others := worker.strays()) and time.monotonic() < end:
                worker.signal_user(self._uid, signal.SIGKILL)
                processes.kill(sorted(others))
                worker.reap()
            with contextlib.suppress(NotAlone, OSError):
                if scratch.unlink_files(self._scratch):
                    self._wipe()
        worker.drop_scratch(self._scratch)

    def _stands_childless(self, process: Process) -> Stat | None:
        found = processes.stands(self._worker.proc, process.pid)
        return None if found is None or processes.children(self._worker.proc, process.pid) else found

    def _purge(self, keep: Process) -> Stat:
        """The session has forked: stops all of it, then ends all but one."""
        worker = self._worker
        end = processes.deadline()
        while time.monotonic() < end:
            # One signal to all of a user's processes also reaches those being cloned; single signals do not.
            worker.signal_user(self._uid, signal.SIGSTOP)
            others = {*processes.of_user(worker.proc, self._uid), *worker.strays()}
            processes.kill(sorted(others - {keep.pid}))
            worker.reap()
            # The kernel wakes a stopped process group when its last parent outside ends.
            keep.signal(signal.SIGSTOP)
            rest = processes.stands(worker.proc, keep.pid)
            if rest is not None and processes.of_user(worker.proc, self._uid) == [keep.pid]:
                return rest
        raise NotAlone("its child processes do not end")

    def _wipe(self) -> None:
        if not self._worker.as_user(self._uid, lambda: scratch.empty(self._scratch)) or os.listdir(self._scratch):
            raise NotAlone("its folder cannot be emptied")


class ByNamespace:
    """A session in its own namespaces, whose first process, the keeper, reports how the others end."""

    def __init__(self, worker: Worker, ends: Ends) -> None:
        assert ends.keeper is not None
        self._worker, self._link = worker, ends.keeper
        self._link.setblocking(False)
        self.exits = ends.keeper.fileno()
        self._keeper: Process | None = None
        self._ends: dict[int, Exit] = {}
        """By inner number."""
        self._buffer = bytearray()
        self._done: tuple[int, Held] | None = None
        """The keeper's answer to the last request."""

    def ready(self, pid: int, inner: int) -> Process:
        """The keeper's only child."""
        try:
            self._keeper = Process.hold(pid, 1)
            found = processes.children(self._worker.proc, pid)
            if len(found) != 1:
                raise NotReady("it has ended")
            return Process.hold(found[0], inner)
        except ProcessLookupError:
            raise NotReady("it has ended") from None

    def pids(self) -> set[int]:
        """The keeper."""
        return {self._keeper.pid} if self._keeper else set()

    def find(self, inner: int, head: Process) -> Process | None:
        """A clone is another child of the keeper."""
        proc = self._worker.proc
        assert self._keeper is not None
        for pid in processes.children(proc, self._keeper.pid):
            if pid != head.pid and processes.inner_number(proc, pid) == inner:
                with contextlib.suppress(ProcessLookupError):
                    return Process.hold(pid, inner)
        if inner == head.inner:
            raise BadReport
        return None

    def exit_of(self, inner: int) -> Exit | None:
        """The keeper has reaped it."""
        self._listen()
        return self._ends.get(inner)

    def clear(self, keep: Process, gone: list[Process]) -> Rest:
        """Checks that the keeper has no other descendant."""
        proc = self._worker.proc
        assert self._keeper is not None
        mine = {keep.pid}
        for process in gone:  # they were sent SIGSTOP before
            if processes.stands(proc, process.pid) and not processes.children(proc, process.pid):
                mine.add(process.pid)
            process.signal(signal.SIGKILL)
        end = processes.deadline()
        while time.monotonic() < end:
            keep.signal(signal.SIGSTOP)
            rest = processes.stands(proc, keep.pid)
            others = [pid for pid in processes.descendants(proc, self._keeper.pid) if pid not in mine]
            if rest is not None and not others:
                left, held = self._ask(WIPE)
                if left:
                    raise NotAlone("its folder cannot be emptied")
                return Rest(rest, held, len(processes.children(proc, keep.pid)))
            # One signal to the whole namespace also reaches processes being cloned.
            self._ask(STOP_ALL)
            processes.kill(others)
        raise NotAlone("its child processes do not end")

    def forget(self, inner: int) -> None:
        """The session no longer needs a process."""
        self._ends.pop(inner, None)

    def end(self, left: list[Process], *, alone: bool) -> None:
        """When the keeper ends, the kernel ends everything in its namespace."""
        if self._keeper is not None:
            self._keeper.signal(signal.SIGKILL)
            self._worker.dying.add(self._keeper.pid)
            self._keeper.release()
        self._link.close()

    def _ask(self, request: bytes) -> tuple[int, Held]:
        self._done = None
        end = processes.deadline()
        try:
            self._link.send(request)
            while self._done is None:
                if not processes.readable(self.exits, end):
                    raise NotAlone("its keeper does not answer")
                self._listen()
        except (BlockingIOError, BrokenPipeError):
            raise NotAlone("its keeper does not read requests") from None
        return self._done

    def _listen(self) -> None:
        try:
            while data := self._link.recv(4096):
                self._buffer += data
            raise BadReport  # the keeper has ended
        except BlockingIOError:
            pass
        except ConnectionError:
            raise BadReport from None
        while len(self._buffer) >= REPLY.size:
            pid, status, cpu_s, kb, inodes = REPLY.unpack_from(self._buffer)
            del self._buffer[: REPLY.size]
            if pid:
                self._ends[pid] = Exit(status, cpu_s)
            else:
                self._done = status, Held(kb, inodes)
