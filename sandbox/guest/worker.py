"""What all sessions share: the zygotes that clone them, users, scratch folders, and the dead that have to be reaped."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import time
from dataclasses import dataclass, field

from . import processes
from .processes import Exit
from .zygote import SCRATCH, Settings, scratch_of

_FIRST_USER = 20_000
_WIPE_S = 2.0


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
    """None until it has said that it is warm."""
    _answers: bytearray = field(default_factory=bytearray)

    def warm(self, timeout_s: float = 0.0) -> bool:
        """Whether it is; waits for it so long."""
        if self.pid is None and processes.readable(self.link.fileno(), time.monotonic() + timeout_s):
            self.pid = self.answer()
        return self.pid is not None

    def answer(self) -> int:
        """The next process number: that of the next clone, in the order of requests."""
        while b"\n" not in self._answers:
            data = self.link.recv(4096)
            if not data:
                raise RuntimeError("a zygote has ended")
            self._answers += data
        line, _, rest = self._answers.partition(b"\n")
        self._answers = bytearray(rest)
        return int(line)


@dataclass(slots=True)
class Worker:
    """The supervisor's hands."""

    settings: Settings
    woken: int
    """Readable when a child has ended."""
    zygote: Zygote
    scientific: Zygote
    """Has SciPy too."""
    exits: dict[int, Exit] = field(default_factory=dict)
    """Children that have ended, until somebody asks."""
    known: set[int] = field(default_factory=set)
    """Children that are heads, spares or keepers."""
    _oom_kills: int = field(default_factory=processes.oom_kills)
    _next_user: int = 0
    _last_user: int = 0

    def __post_init__(self) -> None:
        # Limits on processes count a user over all containers, so guests draw from different stretches.
        with open(f"{self.settings.proc}/self/uid_map", encoding="ascii") as file:
            users = sum(int(line.split()[2]) for line in file)
        if users > 1 << 31:
            self._next_user = _FIRST_USER * 1000 + secrets.randbelow(1 << 14) * (1 << 16)
            self._last_user = self._next_user + (1 << 16)
        else:
            self._next_user = _FIRST_USER + secrets.randbelow(20_000)
            self._last_user = 60_000

    @property
    def proc(self) -> str:
        """Where /proc is."""
        return self.settings.proc

    @property
    def own_users(self) -> bool:
        """Whether sessions have users of their own."""
        return self.settings.own_users

    @property
    def zygotes(self) -> set[int]:
        """Process numbers of those that are warm."""
        return {zygote.pid for zygote in (self.zygote, self.scientific) if zygote.pid is not None}

    def request(self, zygote: Zygote) -> Ends:
        """Ask a zygote for a session and make its channels."""
        uid = self._next_user
        self._next_user += 1
        if uid >= self._last_user:
            # A user is never used twice; the host replaces a guest long before.
            raise RuntimeError("this guest has used up its users")
        scratch = SCRATCH
        if self.own_users:
            scratch = scratch_of(uid)
            # Belongs to root, so the session cannot open it to others, and root can look into it without privilege.
            os.setegid(uid)
            try:
                os.mkdir(scratch)
                os.chmod(scratch, 0o770)
            finally:
                os.setegid(0)
        commands, ours_commands = os.pipe()
        ours_reports, reports = os.pipe()
        ours_output, output = os.pipe()
        theirs = [commands, reports, output]
        keeper = None
        if not self.own_users:
            keeper, keeper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            theirs.append(keeper_end.detach())
        socket.send_fds(zygote.link, [b"%d" % uid], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        for descriptor in (ours_commands, ours_reports, ours_output):
            os.set_blocking(descriptor, False)
        return Ends(ours_commands, ours_reports, ours_output, keeper, uid, scratch)

    def answer(self, zygote: Zygote) -> int:
        """The next clone's process number."""
        pid = zygote.answer()
        self.known.add(pid)
        return pid

    def reap(self) -> None:
        """Note which children have ended."""
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
                raise RuntimeError(f"a zygote ended with wait status {status}")
            self.exits[pid] = Exit(status, usage.ru_utime + usage.ru_stime)

    def oom_killed(self) -> bool:
        """Whether the kernel has killed for lack of memory since the last time this was asked."""
        before, self._oom_kills = self._oom_kills, processes.oom_kills()
        return self._oom_kills > before

    def forget_strays(self) -> None:
        """Drop exits that nobody will ask for."""
        for pid in [pid for pid in self.exits if pid not in self.known]:
            del self.exits[pid]

    def wait_gone(self, pid: int) -> bool:
        """Wait until a killed child has been reaped."""
        end = processes.deadline()
        while pid not in self.exits:
            if time.monotonic() > end:
                return False
            time.sleep(0.0005)
            self.reap()
        return True

    def kill_user(self, uid: int, keep: int | None) -> None:
        """End every process of a user but one."""
        end = processes.deadline()
        while pids := [pid for pid in processes.of_user(self.proc, uid) if pid != keep]:
            processes.kill(pids)
            self.reap()
            if time.monotonic() > end:
                raise RuntimeError(f"processes {pids} of a session survive SIGKILL")

    def has_strays(self, uid: int, keep: int | None) -> bool:
        """Whether a user has processes besides one, as far as parenthood tells."""
        if keep is not None and processes.children(self.proc, keep):
            return True
        unknown = set(processes.children(self.proc, os.getpid())) - self.known - self.zygotes - {keep}
        return any(processes.real_user(self.proc, pid) == uid for pid in unknown)

    def wipe(self, scratch: str, uid: int) -> None:
        """Empty a scratch folder."""
        entries = os.listdir(scratch)
        if not entries:
            return
        for entry in entries:
            try:
                os.unlink(os.path.join(scratch, entry))
            except OSError:
                continue  # a folder
        if os.listdir(scratch):
            self._wipe_as(scratch, uid)
        if left := os.listdir(scratch):
            raise RuntimeError(f"{len(left)} entries of a session's scratch cannot be removed")

    def _wipe_as(self, scratch: str, uid: int) -> None:
        """Folders made by the session can be removed only by its own user."""
        helper = os.fork()
        if helper == 0:
            try:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                for folder, _, _ in os.walk(scratch):  # top-down: opens a folder before it is entered
                    if folder != scratch:
                        os.chmod(folder, 0o700)
                for entry in os.scandir(scratch):
                    shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os._exit(0)
        end = time.monotonic() + _WIPE_S
        while helper not in self.exits and time.monotonic() < end:
            time.sleep(0.001)
            self.reap()
        if helper not in self.exits:
            os.kill(helper, signal.SIGKILL)

    def remove_scratch(self, scratch: str) -> None:
        """Remove an emptied scratch folder."""
        if scratch != SCRATCH:
            os.rmdir(scratch)

    def scratch_entries(self) -> int:
        """Files and folders in all scratch folders that this process can see."""
        if not self.own_users:
            return 0
        return sum(len(os.listdir(entry.path)) for entry in os.scandir(SCRATCH) if entry.is_dir())
