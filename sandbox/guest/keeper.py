"""Keeps one session in its own namespaces, where sessions cannot have their own users.

An ordinary user can map only one user into bubblewrap. So each session gets user, process, IPC, network and mount
namespaces instead, and this process is the first in them: it reaps, reports to the supervisor how processes ended, and
empties the session's folder. It runs no snippet. When it dies, the kernel kills everything in its namespaces.

As first process it receives only signals that it handles, which is SIGCHLD. It gives up its capabilities and confines
itself like a session before the session runs anything.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import sys
from typing import NoReturn

from . import kernel, processes, scratch, session

NAMESPACES = kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET
REPLY = struct.Struct(">iidQQ")
"""Process number inside, wait status, CPU seconds. Done with a request: 0, entries left, 0, KiB and inodes in use."""
WIPE, STOP_ALL = b"w", b"s"
"""Requests: empty the folder; send SIGSTOP to the whole namespace."""


def start(
    confinement: session.Confinement, proc: str, folder: str, commands: int, reports: int, output: int, link: int
) -> NoReturn:
    """Becomes the first process of new namespaces, starts the session in them and supervises it."""
    try:
        kernel.die_with_parent()
        _enter(folder, proc)
        if kernel.clone_alone() == 0:
            os.close(link)
            session.start(confinement, None, folder, commands, reports, output)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()) - {signal.SIGCHLD})
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        kernel.no_new_privileges()
        kernel.install_filter(confinement.keeper_filter)
        for descriptor in (commands, reports, output):
            os.close(descriptor)
        _look_after(link, folder)
    except BaseException as error:
        print(f"keeper: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(72)


def _enter(folder: str, proc: str) -> None:
    # The outer user was recorded before: a fresh namespace maps everyone to the overflow user.
    outer_uid, outer_gid = _OUTER
    kernel.hide_memory(False)
    with open(f"{proc}/self/setgroups", "w", encoding="ascii") as file:
        file.write("deny")
    with open(f"{proc}/self/uid_map", "w", encoding="ascii") as file:
        file.write(f"{_INNER} {outer_uid} 1")
    with open(f"{proc}/self/gid_map", "w", encoding="ascii") as file:
        file.write(f"{_INNER} {outer_gid} 1")
    kernel.hide_memory()
    kernel.make_mounts_private()
    kernel.mount_tmpfs(folder, "size=16m,nr_inodes=1k,mode=700")
    # The supervisor's view of all processes is covered; nothing in here needs it.
    kernel.mount_tmpfs(os.path.dirname(proc), "size=4k,nr_inodes=4,mode=000")
    kernel.drop_capabilities()
    kernel.hide_memory()


_INNER = 20000
_OUTER = (os.getuid(), os.getgid())


def _look_after(link: int, folder: str) -> None:
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    os.set_blocking(readable, False)
    signal.signal(signal.SIGCHLD, processes.wake)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    empty = scratch.in_use(folder)
    _reap(link)  # children that ended before the handler was set
    while True:
        ready, _, _ = select.select([link, readable], [], [])
        if readable in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(readable, 4096)
            _reap(link)
        if link in ready:
            request = os.read(link, 1)
            if not request:
                return
            left = 0
            if request == WIPE:
                left = _wipe(folder)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGSTOP)
            held = scratch.in_use(folder)
            os.write(link, REPLY.pack(0, left, 0.0, max(0, held.kb - empty.kb), max(0, held.inodes - empty.inodes)))


def _reap(link: int) -> None:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        os.write(link, REPLY.pack(pid, status, usage.ru_utime + usage.ru_stime, 0, 0))


def _wipe(folder: str) -> int:
    try:
        os.chmod(folder, 0o700)  # its session may have locked it
        left = scratch.unlink_files(folder)
        if left:
            scratch.empty(folder)
            left = len(os.listdir(folder))
        return left
    except OSError:
        return 1
