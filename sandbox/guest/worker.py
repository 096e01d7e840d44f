"""Shared by all sessions: zygotes, users, scratch folders, and reaping of children."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from . import kernel, processes, scratch
from .processes import Exit
from .reports import NotReady
from .scratch import Held
from .zygote import SCRATCH, Settings, scratch_of

_FIRST_USER = 20_000
_HELPER_USER = _FIRST_USER - 1
_FEW_USERS = 2_000
"""Left for the sessions that are open: each takes another user when its code must be compiled once more."""
_HELPER_S = 2.0


class GuestBroken(Exception):
    """This guest cannot continue, and no session is the cause."""


@dataclass(slots=True)
class Ends:
    """The supervisor's ends of a new session's channels."""

    commands: int
    reports: int
    output: int
    keeper: socket.socket | None
    uid: int
    scratch: str


@dataclass(slots=True)
class Zygote:
    """The supervisor's end of a zygote."""

    link: socket.socket
    pid: int | None = None
    """None until it has reported that it is warm."""
    _answers: deque[int] = field(default_factory=deque)
    _rest: bytes = b""

    def warm(self, timeout_s: float = 0.0) -> bool:
        """Waits until it is warm; False if the time limit passes."""
        if self.pid is None and processes.readable(self.link.fileno(), time.monotonic() + timeout_s):
            self.pid = self.answer()
        return self.pid is not None

    def answer(self) -> int:
        """The process id of the next clone, in the order of requests; a negative errno on failure."""
        while not self._answers:
            self._receive(0)
        return self._answers.popleft()

    def coming(self) -> deque[int]:
        """Process ids of clones that have not been fetched yet."""
        with contextlib.suppress(BlockingIOError):
            self._receive(socket.MSG_DONTWAIT)
        return self._answers

    def _receive(self, flags: int) -> None:
        data = self.link.recv(4096, flags)
        if not data:
            raise GuestBroken("a zygote has ended")
        *lines, rest = (self._rest + data).split(b"\n")
        self._answers += map(int, lines)
        self._rest = rest


@dataclass(slots=True)
class Worker:
    """Creates and ends processes and folders for the supervisor."""

    settings: Settings
    woken: int
    """Readable when a child has ended."""
    zygote: Zygote
    scientific: Zygote
    """With SciPy."""
    exits: dict[int, Exit] = field(default_factory=dict)
    """Children that have ended, until their session has handled them."""
    known: set[int] = field(default_factory=set)
    """Children that are heads, runners, spares, keepers or helpers."""
    dying: set[int] = field(default_factory=set)
    """Killed children that only need to be reaped."""
    _held: dict[str, Held] = field(default_factory=dict)
    """By scratch folder: idle sessions' use of the shared file system."""
    _awaited: set[int] = field(default_factory=set)
    """Users of requested sessions."""
    _oom_kills: int = field(default_factory=processes.oom_kills)
    _next_user: int = 0
    _last_user: int = 0
    _empty_inodes: int = 0

    def __post_init__(self) -> None:
        # Process limits count a user over all containers, so guests use different ranges.
        with open(f"{self.settings.proc}/self/uid_map", encoding="ascii") as file:
            users = sum(int(line.split()[2]) for line in file)
        if users > 1 << 31:
            self._next_user = _FIRST_USER * 1000 + secrets.randbelow(1 << 14) * (1 << 16)
            self._last_user = self._next_user + (1 << 16)
        else:
            self._next_user = _FIRST_USER + secrets.randbelow(20_000)
            self._last_user = 60_000
        self._empty_inodes = scratch.in_use(SCRATCH).inodes

    @property
    def proc(self) -> str:
        """Where /proc is."""
        return self.settings.proc

    @property
    def own_users(self) -> bool:
        """Whether sessions have their own users."""
        return self.settings.own_users

    @property
    def few_users(self) -> bool:
        """Whether users are running out: the host should open no further sessions here."""
        return self._last_user - self._next_user < _FEW_USERS

    @property
    def zygotes(self) -> set[int]:
        """Process ids of warm zygotes."""
        return {zygote.pid for zygote in (self.zygote, self.scientific) if zygote.pid is not None}

    def request(self, zygote: Zygote) -> Ends:
        """Requests a session from a zygote and creates its channels.

        Raises:
            NotReady: other sessions hold the needed resources.
        """
        uid = self._next_user
        self._next_user += 1
        if uid >= self._last_user:
            # A user is never reused; before they run out the guest asks to be replaced (`few_users`).
            raise GuestBroken("this guest has used up its users")
        folder = SCRATCH
        opened: list[int] = []
        keeper, keeper_end = None, None
        try:
            if self.own_users:
                folder = self._make_scratch(uid)
            for _ in range(3):
                opened += os.pipe()
            if not self.own_users:
                keeper, keeper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            for descriptor in opened:
                os.close(descriptor)
            raise NotReady(f"no room for a session: {error}") from None
        commands, ours_commands, ours_reports, reports, ours_output, output = opened
        theirs = [commands, reports, output]
        if keeper_end is not None:
            theirs.append(keeper_end.detach())
        try:
            socket.send_fds(zygote.link, [b"%d" % uid], theirs)
        except ConnectionError:
            raise GuestBroken("a zygote has ended") from None
        self._awaited.add(uid)
        for descriptor in theirs:
            os.close(descriptor)
        for descriptor in (ours_commands, ours_reports, ours_output):
            os.set_blocking(descriptor, False)
        return Ends(ours_commands, ours_reports, ours_output, keeper, uid, folder)

    def answer(self, zygote: Zygote, uid: int) -> int:
        """The next clone's process id. Raises NotReady if cloning failed."""
        pid = zygote.answer()
        self._awaited.discard(uid)
        if pid < 0:
            raise NotReady(f"it could not be cloned: {os.strerror(-pid)}")
        self.known.add(pid)
        return pid

    def reap(self) -> None:
        """Records which children have ended."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.woken, 4096)
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.zygotes:
                raise GuestBroken(f"a zygote ended with wait status {status}")
            if pid in self.dying:
                self.dying.discard(pid)
                self.known.discard(pid)
            else:
                self.exits[pid] = Exit(status, usage.ru_utime + usage.ru_stime)

    def oom_killed(self) -> bool:
        """Whether the kernel has killed for lack of memory since the last call."""
        before, self._oom_kills = self._oom_kills, processes.oom_kills()
        return self._oom_kills > before

    def forget_strays(self) -> None:
        """Drops exits that no session will request."""
        for pid in [pid for pid in self.exits if pid not in self.known]:
            del self.exits[pid]

    def forget(self, pid: int) -> None:
        """A session no longer needs a process."""
        if self.exits.pop(pid, None) is not None:
            self.known.discard(pid)
            self.dying.discard(pid)

    def wait_gone(self, pid: int) -> None:
        """Waits briefly until a killed child has been reaped."""
        end = processes.deadline()
        self.reap()
        while pid in self.dying and pid not in self.exits and time.monotonic() < end:
            time.sleep(0.0003)
            self.reap()

    def strays(self) -> set[int]:
        """Unknown children of the supervisor, left behind by sessions."""
        unknown = set(processes.children(self.proc, os.getpid())) - self.known - self.dying - self.zygotes
        if unknown:
            for zygote in (self.zygote, self.scientific):
                if zygote.pid is not None:
                    unknown.difference_update(zygote.coming())
        # A clone whose id has not been sent yet belongs to root at first, then to its new user.
        users = {pid: processes.real_user(self.proc, pid) for pid in unknown}
        return {pid for pid, uid in users.items() if uid and uid not in self._awaited}

    def signal_user(self, uid: int, number: int) -> None:
        """Signals every process of a user at once, including those being cloned."""

        def signal_all() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, number)

        self.as_user(uid, signal_all)

    def as_user(self, uid: int, work: Callable[[], None]) -> bool:
        """Runs a function with a session's rights in a separate process; returns whether it finished in time.

        Only the effective user is the session's: its processes cannot signal this one, and this one cannot signal the
            supervisor.
        """
        try:
            helper = kernel.clone_alone()
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            raise
        if helper == 0:
            try:
                kernel.no_new_privileges()
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(_HELPER_USER, uid, _HELPER_USER)
                work()
                os._exit(0)
            finally:
                os._exit(1)
        self.known.add(helper)
        end = time.monotonic() + _HELPER_S
        self.reap()
        while helper not in self.exits:
            if time.monotonic() > end:
                os.kill(helper, signal.SIGKILL)
                self.dying.add(helper)
                return False
            time.sleep(0.0003)
            self.reap()
        done = self.exits[helper].status == 0
        self.forget(helper)
        return done

    def files_held_besides(self, in_use: Held) -> Held:
        """Use of the shared file system not held by idle sessions: that of the session that has just run."""
        return Held(
            max(0, in_use.kb - sum(held.kb for held in self._held.values())),
            max(0, in_use.inodes - self._empty_inodes - sum(1 + held.inodes for held in self._held.values())),
        )

    def note_held(self, folder: str, held: Held) -> None:
        """Records an idle session's use of the shared file system."""
        if folder in self._held:
            self._held[folder] = held

    def drop_scratch(self, folder: str) -> None:
        """Removes an emptied scratch folder."""
        with contextlib.suppress(OSError):  # counted as a remaining entry
            os.rmdir(folder)
            self._held.pop(folder, None)

    def scratch_entries(self) -> int:
        """Remaining entries in scratch folders, and folders without a session, as far as this process can see."""
        if not self.own_users:
            return 0
        folders = list(os.scandir(SCRATCH))
        return sum(len(os.listdir(entry.path)) for entry in folders if entry.is_dir())

    def _make_scratch(self, uid: int) -> str:
        folder = scratch_of(uid)
        # Owned by root, so the session cannot open it to others, and root can read it without privilege.
        os.setegid(uid)
        try:
            os.mkdir(folder)
            os.chmod(folder, 0o770)
        finally:
            os.setegid(0)
        self._held[folder] = Held(0, 0)
        return folder
