"""The zygote: has all libraries loaded and warm, runs no snippet, and clones sessions for the supervisor.

It never sees a session's code or output, so neither does the memory of its clones. When it is warm it clones a second
zygote, which also loads SciPy: its hundred libraries slow down every clone, which only sessions that use them should
pay for.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import os
import random
import select
import signal
import socket
import sys
from typing import NoReturn

from . import keeper, kernel, session, warmup
from .seccomp import session_filter

SCRATCH = "/tmp"
"""The parent of the sessions' folders."""
_LATER_BYTES = 128 << 20
"""Address space for libraries loaded after the start."""
_SCIENTIFIC_BYTES = 128 << 20
"""The same for SciPy. The second zygote's own memory gets no huge pages: it cannot read its maps."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Settings of all sessions of this guest."""

    memory_mb: int
    cpu_s: float
    proc: str
    own_users: bool
    """Whether each session has its own user (needs CAP_SETUID) instead of its own namespaces."""
    landlock: int
    readable: tuple[str, ...]


def scratch_of(uid: int) -> str:
    """The folder of a session with its own user."""
    return f"{SCRATCH}/{uid}"


def serve(link: socket.socket, scientific: socket.socket, settings: Settings) -> NoReturn:
    """Loads, warms up, and clones sessions until the supervisor is gone.

    Args:
        link: receives requests and sends process ids.
        scientific: the same for the second zygote, which first reports that it is warm.
        settings: settings of all sessions.
    """
    try:
        kernel.die_with_parent()
        _offer_to_the_killer(settings.proc)
        kernel.hide_memory()
        _loop(link, scientific, settings)
    except (EOFError, ConnectionError, BrokenPipeError):
        pass
    except BaseException as error:
        print(f"zygote: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(71)


def _loop(link: socket.socket, scientific: socket.socket | None, settings: Settings) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    maps = open(f"{settings.proc}/self/maps", encoding="utf-8", errors="replace")  # noqa: SIM115
    namespace: dict[str, object] = {}
    pending = warmup.steps()
    while pending and pending[0][1]:
        warmup.perform(pending.pop(0)[0], namespace)
    session.rehearse()
    _settle(maps)
    memory = _address_space(settings.proc) + (settings.memory_mb << 20)
    confinement = session.Confinement(
        limits=session.limits(memory, settings.cpu_s),
        filter=_filter(),
        # Keepers must mount, which Landlock forbids, so with keepers each session confines itself.
        landlock=0 if settings.own_users else settings.landlock,
        readable=settings.readable,
        keeper_filter=_filter(("statfs", "fstatfs")),
        signals=kernel.landlock_signals(settings.landlock),
    )
    if settings.landlock and settings.own_users:
        kernel.landlock(settings.landlock, settings.readable, SCRATCH)
    while True:
        # The rest of the warm-up runs while no session is requested.
        if pending and not select.select([link], [], [], 0)[0]:
            warmup.perform(pending.pop(0)[0], namespace)
            if pending:
                continue
            namespace.clear()
            _settle(maps)
            if scientific is None:  # this is the second one
                limits = session.limits(memory + _SCIENTIFIC_BYTES, settings.cpu_s)
                confinement = dataclasses.replace(confinement, limits=limits)
                link.sendall(b"%d\n" % os.getpid())
            elif kernel.clone_alone(kernel.CLONE_PARENT):
                scientific.close()
            else:
                kernel.die_with_parent()
                link.close()
                link, scientific = scientific, None
                pending = warmup.scientific_steps()
            continue
        message, descriptors, _, _ = socket.recv_fds(link, 4096, 4)
        if not message:
            raise EOFError
        commands, reports, output = descriptors[:3]
        try:
            if settings.own_users:
                uid = int(message)
                pid = kernel.clone_alone(kernel.CLONE_PARENT)
                if pid == 0:
                    session.start(confinement, uid, scratch_of(uid), commands, reports, output)
            else:
                pid = kernel.clone_alone(kernel.CLONE_PARENT | keeper.NAMESPACES)
                if pid == 0:
                    link.close()
                    keeper.start(confinement, settings.proc, SCRATCH, commands, reports, output, descriptors[3])
        except OSError as error:  # sessions hold too much; the supervisor will make room
            pid = -(error.errno or 1)
        for descriptor in descriptors:
            os.close(descriptor)
        link.sendall(b"%d\n" % pid)


def _filter(also: tuple[str, ...] = ()) -> kernel.Filter:
    program = session_filter(also=also)
    return kernel.Filter(len(program) // 8, program)


def _offer_to_the_killer(proc: str) -> None:
    """If memory runs out, makes the kernel kill the largest session, not the supervisor or the model."""
    kernel.hide_memory(False)  # files in /proc of a hidden process belong to root
    with open(f"{proc}/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _settle(maps: io.TextIOWrapper) -> None:
    """Fixes random state, and keeps the garbage collector from touching (and so copying) shared pages."""
    import numpy
    import sympy.core.random

    random.seed(0)
    numpy.random.seed(0)
    sympy.core.random.seed(0)
    gc.collect()
    gc.freeze()
    kernel.collapse_memory(maps)


def _address_space(proc: str) -> int:
    """Address space in bytes, with room for the rest of the warm-up."""
    with open(f"{proc}/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + _LATER_BYTES
