"""The zygote: has every library loaded and warm, runs no snippet, and clones a session whenever the supervisor asks.

It keeps no trace of any session's code or output, so neither does the memory that its clones start from.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import socket
import sys
from dataclasses import dataclass
from typing import NoReturn

from . import keeper, kernel, session, warmup
from .policy import session_filter


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
    namespace: dict[str, object] = {}
    pending = warmup.steps()
    while pending and pending[0][1]:
        warmup.perform(pending.pop(0)[0], namespace)
    _settle()
    program = session_filter()
    while True:
        # The rest of the warm-up fills the time in which nobody wants a session.
        if pending and not select.select([link], [], [], 0)[0]:
            warmup.perform(pending.pop(0)[0], namespace)
            if not pending:
                namespace.clear()
                _settle()
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
            proc=settings.proc,
            filter=program,
            landlock=settings.landlock,
            readable=settings.readable,
        )
        base = _address_space(settings.proc)
        commands, reports, output = descriptors[:3]
        if settings.own_users:
            pid = kernel.clone_sibling()
            if pid == 0:
                link.close()
                session.start(confinement, commands, reports, output, base)
        else:
            pid = kernel.clone_sibling(keeper.NAMESPACES)
            if pid == 0:
                link.close()
                keeper.start(confinement, commands, reports, output, descriptors[3], base)
        for descriptor in descriptors:
            os.close(descriptor)
        link.sendall(b"%d\n" % pid)


def _settle() -> None:
    """Fix what depends on chance, and keep the collector from touching (and so copying) the shared pages."""
    import numpy
    import sympy.core.random

    random.seed(0)
    numpy.random.seed(0)
    sympy.core.random.seed(0)
    gc.collect()
    gc.freeze()


def _address_space(proc: str) -> int:
    with open(f"{proc}/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
