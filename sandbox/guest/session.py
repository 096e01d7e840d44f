"""One session: the process that runs a chain's snippets. Nothing it says is trusted but what the kernel confirms.

Its descriptors: 0 and 2 are /dev/null, 1 is its output, 3 brings commands, 4 takes reports, 5 keeps a copy of 1.
Before each snippet but the first it clones itself; the clone runs the snippet, and the original waits as the state
to go back to. The supervisor kills one of the two.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import math
import os
import resource
import struct
import sys
from dataclasses import dataclass
from typing import NoReturn

from . import kernel

OUTPUT, COMMANDS, REPORTS, SAVED_OUTPUT = 1, 3, 4, 5
LENGTH = struct.Struct(">I")
MAX_ERROR = 4096
MAX_REPORT = 1 << 16

_OPEN_FILES = 64
_PROCESSES = 8
_FILE_BYTES = 8 << 20
_DIGITS = 100_000
"""Honest number theory prints integers longer than Python's 4,300 digits."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What every session is confined by."""

    limits: tuple[tuple[int, int], ...]
    """Resources and how much of each."""
    filter: kernel.Filter
    landlock: int
    """Version to confine itself by; 0 where there is none, or where the zygote has done so for all."""
    readable: tuple[str, ...]


def limits(memory_bytes: int, cpu_s: float) -> tuple[tuple[int, int], ...]:
    """Of a session.

    Args:
        memory_bytes: address space, that of the zygote included.
        cpu_s: processor time; rounded up to whole seconds.
    """
    wanted = (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, math.ceil(cpu_s)),
        (resource.RLIMIT_NPROC, _PROCESSES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
        (resource.RLIMIT_STACK, 8 << 20),
    )
    most = [(limit, value, resource.getrlimit(limit)[1]) for limit, value in wanted]
    return tuple((limit, value if hard == resource.RLIM_INFINITY else min(value, hard)) for limit, value, hard in most)


def start(
    confinement: Confinement, uid: int | None, scratch: str, commands: int, reports: int, output: int
) -> NoReturn:
    """Become a session. Whatever goes wrong ends the process: it must never return to the zygote's loop.

    Args:
        confinement: what every session is confined by.
        uid: its own user, or None where namespaces keep sessions apart.
        scratch: its folder.
        commands: descriptor to read from.
        reports: descriptor to write to.
        output: descriptor of its output.
    """
    try:
        _arrange_descriptors(commands, reports, output)
        _confine(confinement, uid, scratch)
        _report({"ready": os.getpid()})
        _serve()
    except BaseException as error:
        _report({"broken": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(70)


def _arrange_descriptors(commands: int, reports: int, output: int) -> None:
    # Through high numbers first: the wanted ones may be among those given.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (output, commands, reports)]
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 2)
    for source, target in zip((*high, high[0]), (OUTPUT, COMMANDS, REPORTS, SAVED_OUTPUT), strict=True):
        os.dup2(source, target)
    os.closerange(SAVED_OUTPUT + 1, 1 << 20)


def _confine(confinement: Confinement, uid: int | None, scratch: str) -> None:
    os.setsid()
    os.chdir(scratch)
    os.umask(0o077)
    os.environ["HOME"] = os.environ["TMPDIR"] = scratch
    for limit, value in confinement.limits:
        resource.setrlimit(limit, (value, value))
    if confinement.landlock:
        kernel.landlock(confinement.landlock, confinement.readable, scratch)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    kernel.drop_capabilities()
    kernel.hide_memory()
    kernel.no_new_privileges()
    kernel.install_filter(confinement.filter)
    sys.set_int_max_str_digits(_DIGITS)


def _serve() -> NoReturn:
    namespace: dict[str, object] = {"__name__": "__main__", "__builtins__": __builtins__}
    while True:
        (size,) = LENGTH.unpack(_read(LENGTH.size))
        command = json.loads(_read(size))
        nonce = command["nonce"]
        _reap()
        if command["checkpoint"]:
            if kernel.clone_sibling():
                continue
            _report({"runner": os.getpid(), "nonce": nonce})
        outcome, error = _run(command["code"], namespace)
        _report({"outcome": outcome, "error": error, "nonce": nonce})


def _reap() -> None:
    """What the last snippet had forked was killed, and would count as processes until it is waited for."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run(code: str, namespace: dict[str, object]) -> tuple[str, str | None]:
    os.dup2(SAVED_OUTPUT, OUTPUT)
    # A line at a time, so that what was printed before a hang is not lost with the process.
    stream = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(OUTPUT, "w", closefd=False), 1 << 16),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    sys.stdout = sys.__stdout__ = stream
    try:
        try:
            compiled = compile(code, "<string>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            return "invalid_code", _describe(error)
        try:
            exec(compiled, namespace)
        except SystemExit as error:
            return "exit", f"sys.exit({error.code!r:.200})" if type(error.code) in (
                int,
                str,
                type(None),
            ) else "sys.exit"
        except MemoryError as error:
            return "memory", _describe(error)
        except BaseException as error:
            return "exception", _describe(error)
        return "ok", None
    finally:
        for flushed in (sys.stdout, stream):
            with contextlib.suppress(BaseException):
                flushed.flush()


_class_name = type.__dict__["__name__"].__get__
"""A class's own name, whatever its metaclass says."""


def _describe(error: BaseException) -> str:
    name = _class_name(type(error))
    try:
        message = str(error)
        description = f"{name}: {message}"
    except BaseException as failure:
        description = f"{name}: <str() of this exception raised {_class_name(type(failure))}>"
    if len(description) > MAX_ERROR:
        description = f"{description[:MAX_ERROR]}... ({len(description) - MAX_ERROR} more characters)"
    return description


def _read(size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(COMMANDS, size)
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _report(message: dict[str, object]) -> None:
    data = json.dumps(message).encode("ascii")
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(REPORTS, data) :]
