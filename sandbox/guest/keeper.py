"""Keeps one session in namespaces of its own, where sessions cannot have users of their own.

An ordinary user can map a single user into bubblewrap. There each session gets user, process, IPC, network and
mount namespaces instead, and this process is the first in them: it reaps, tells the supervisor how processes ended,
and wipes the session's scratch. It runs no snippet. When it dies the kernel kills everything in its namespaces.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import struct
import sys
from typing import NoReturn

from . import kernel, processes, session

NAMESPACES = kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET
EXIT = struct.Struct(">iid")
"""Process number inside, wait status, CPU seconds. Number 0 acknowledges a wipe; its status is 0 when all is gone."""


def start(
    confinement: session.Confinement, proc: str, scratch: str, commands: int, reports: int, output: int, link: int
) -> NoReturn:
    """Become the first process of a new set of namespaces, start the session in it and look after it."""
    try:
        kernel.die_with_parent()
        _enter(scratch, proc)
        if kernel.clone_alone() == 0:
            os.close(link)
            session.start(confinement, None, scratch, commands, reports, output)
        for descriptor in (commands, reports, output):
            os.close(descriptor)
        _look_after(link, scratch)
    except BaseException as error:
        print(f"keeper: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(72)


def _enter(scratch: str, proc: str) -> None:
    # The outer user was noted before: in a fresh namespace everybody is the overflow user.
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
    kernel.mount_tmpfs(scratch, "size=16m,nr_inodes=1k,mode=700")
    # The supervisor's view of all processes is covered; whoever is in here needs none.
    kernel.mount_tmpfs(os.path.dirname(proc), "size=4k,nr_inodes=4,mode=000")


_INNER = 20000
_OUTER = (os.getuid(), os.getgid())


def _look_after(link: int, scratch: str) -> None:
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    os.set_blocking(readable, False)
    signal.signal(signal.SIGCHLD, processes.wake)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([link, readable], [], [])
        if readable in ready:
            os.read(readable, 4096)
            while True:
                try:
                    pid, status, usage = os.wait4(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                os.write(link, EXIT.pack(pid, status, usage.ru_utime + usage.ru_stime))
        if link in ready:
            if not os.read(link, 1):
                return
            os.write(link, EXIT.pack(0, _wipe(scratch), 0.0))


def _wipe(scratch: str) -> int:
    for entry in os.scandir(scratch):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)
    return len(os.listdir(scratch))
