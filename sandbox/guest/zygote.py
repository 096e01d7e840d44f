"""The zygote: has every library loaded and warm, runs no snippet, and clones a session whenever the supervisor asks.

It keeps no trace of any session's code or output, so neither does the memory that its clones start from.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import random
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import NoReturn

from . import keeper, kernel, session, warmup
from .policy import session_filter

SCRATCH = "/tmp"
"""Where sessions have their folders."""
_LATER_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What all sessions of this guest have in common."""

    memory_mb: int
    cpu_s: float
    proc: str
    own_users: bool
    """Each session under its own user (needs CAP_SETUID), or else in its own namespaces."""
    landlock: int
    readable: tuple[str, ...]


def serve(link: socket.socket, settings: Settings) -> NoReturn:
    """Load, warm up, and clone sessions until the supervisor is gone."""
    try:
        kernel.die_with_parent()
        kernel.hide_memory()
        _loop(link, settings)
    except (EOFError, ConnectionError, BrokenPipeError):
        pass
    except BaseException as error:
        print(f"zygote: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(71)


def _loop(link: socket.socket, settings: Settings) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # If memory runs out the kernel shall take a session, and the largest one.
    with contextlib.suppress(OSError), open(f"{settings.proc}/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    maps = open(f"{settings.proc}/self/maps", encoding="utf-8", errors="replace")  # noqa: SIM115
    namespace: dict[str, object] = {}
    pending = warmup.steps()
    while pending and pending[0][1]:
        warmup.perform(pending.pop(0)[0], namespace)
    _settle(maps)
    base = _address_space(settings.proc)
    program = session_filter()
    each_landlock = settings.landlock
    if settings.landlock and settings.own_users:
        # Once for all sessions. Keepers have to mount, which Landlock forbids, so there each session does it.
        kernel.landlock(settings.landlock, settings.readable, SCRATCH)
        each_landlock = 0
    while True:
        # The rest of the warm-up fills the time in which nobody wants a session.
        if pending and not select.select([link], [], [], 0)[0]:
            warmup.perform(pending.pop(0)[0], namespace)
            if not pending:
                namespace.clear()
                _settle(maps)
            continue
        message, descriptors, _, _ = socket.recv_fds(link, 4096, 4)
        if not message:
            raise EOFError
        wanted = json.loads(message)
        confinement = session.Confinement(
            uid=wanted["uid"] if settings.own_users else None,
            memory_mb=settings.memory_mb,
            cpu_s=settings.cpu_s,
            scratch=wanted["scratch"],
            filter=program,
            landlock=each_landlock,
            readable=settings.readable,
        )
        commands, reports, output = descriptors[:3]
        if settings.own_users:
            pid = kernel.clone_sibling()
            if pid == 0:
                session.start(confinement, commands, reports, output, base)
        else:
            pid = kernel.clone_sibling(keeper.NAMESPACES)
            if pid == 0:
                link.close()
                keeper.start(confinement, settings.proc, commands, reports, output, descriptors[3], base)
        for descriptor in descriptors:
            os.close(descriptor)
        link.sendall(b"%d\n" % pid)


def _settle(maps: io.TextIOWrapper) -> None:
    """Fix what depends on chance, and keep the collector from touching (and so copying) the shared pages."""
    import numpy
    import sympy.core.random

    random.seed(0)
    numpy.random.seed(0)
    sympy.core.random.seed(0)
    gc.collect()
    gc.freeze()
    kernel.collapse_memory(maps)


def _address_space(proc: str) -> int:
    """Bytes, with room for what the warm-up still loads."""
    with open(f"{proc}/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + _LATER_BYTES
