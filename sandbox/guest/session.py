"""One session: the process that runs a chain's snippets. It is trusted only where the kernel confirms it.

Before each snippet except the first it clones itself; the clone runs the snippet, and the original waits as the state
to return to. The supervisor ends one of the two.

A session inherits:

- Descriptors: 0 and 2 are /dev/null, opened by the session itself so that no file description is shared with another;
  1 is its output, 3 brings commands, 4 takes reports, 5 keeps a copy of 1: pipes of this session alone. No others.
- Memory: the zygote's, copied on write, without any session's code or output. The address-space layout is the
zygote's too, the same in all sessions.
- Files: what the guest's root shows, read-only; its own folder to write to, emptied after every snippet.
- User: its own user or its own namespace; no capabilities; no new privileges; its own process group and session; no
controlling terminal.
- Limits, the system call filter and Landlock: see `Confinement`. Signals: Python's default handlers, none blocked.
- Environment: the guest's, without variables of the host, with HOME and TMPDIR set to its folder.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import resource
import select
import struct
import sys
from dataclasses import dataclass
from typing import NoReturn

from . import frames, kernel
from .reports import LENGTH

OUTPUT, COMMANDS, REPORTS, SAVED_OUTPUT = 1, 3, 4, 5
KEPT_DESCRIPTORS = 6
COMMAND = struct.Struct(">I16sB")
"""Bytes of code that follow, the nonce of this snippet, and what to do with it."""
RUN, CLONE, COMPILE = 0, 1, 2
"""Run it here; run it in a clone; only check whether it is Python."""

_OPEN_FILES = 64
_PROCESSES = 8
_REHEARSALS = 40
_FILE_BYTES = 8 << 20
_DIGITS = 100_000
"""Honest number theory prints integers longer than Python's 4,300 digits."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """The confinement of every session."""

    limits: tuple[tuple[int, int], ...]
    """Resources and their limits."""
    filter: kernel.Filter
    landlock: int
    """Version for its own confinement; 0 without Landlock, or if the zygote has confined all sessions."""
    readable: tuple[str, ...]
    keeper_filter: kernel.Filter
    signals: int | None = None
    """Landlock's rule that confines signals to the session; None if the kernel has none."""


def limits(memory_bytes: int, cpu_s: float) -> tuple[tuple[int, int], ...]:
    """Of a session.

    Args:
        memory_bytes: address space, including the zygote's.
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
    """Becomes a session. Any error ends the process: it must never return to the zygote's loop.

    Args:
        confinement: the confinement of every session.
        uid: its own user, or None if namespaces isolate sessions.
        scratch: its folder.
        commands: descriptor to read from. This one and the next two are above those that a session keeps.
        reports: descriptor to write to.
        output: descriptor of its output.
    """
    try:
        if confinement.signals is not None:
            kernel.no_new_privileges()
            kernel.landlock_enter(confinement.signals)
        _arrange_descriptors(commands, reports, output)
        _confine(confinement, uid, scratch)
        _report(f'{{"ready": {os.getpid()}}}')
        _serve()
    except BaseException as error:
        _report(json.dumps({"broken": frames.clip(f"{type(error).__name__}: {error}")}))
    finally:
        os._exit(70)


def reserve_descriptors() -> None:
    """For the supervisor at its start: makes later descriptors higher than those that a session needs."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (COMMANDS, REPORTS, SAVED_OUTPUT):
        os.dup2(null, descriptor)
    if null > SAVED_OUTPUT:
        os.close(null)


def rehearse() -> None:
    """For the zygote: does what every session does, so that the interpreter specialises its code only once.

    Its output goes to the reserved descriptors, which lead nowhere.
    """
    for _ in range(_REHEARSALS):
        _report(f'{{"ready": {os.getpid()}}}')
        _run("print(1 + 1)", {}, first=True)
        _open_files()


def _arrange_descriptors(commands: int, reports: int, output: int) -> None:
    for standard in (0, 2):
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, standard)
        os.close(null)
    os.dup2(commands, COMMANDS)
    os.dup2(reports, REPORTS)
    os.dup2(output, OUTPUT)
    os.dup2(output, SAVED_OUTPUT)
    os.closerange(KEPT_DESCRIPTORS, 1 << 20)


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
        kernel.renounce_capabilities()
    kernel.hide_memory()
    kernel.no_new_privileges()
    kernel.install_filter(confinement.filter)
    sys.set_int_max_str_digits(_DIGITS)


def _serve() -> NoReturn:
    namespace: dict[str, object] = {"__name__": "__main__", "__builtins__": __builtins__}
    while True:
        size, name, how = COMMAND.unpack(_read(COMMAND.size))
        code = _read(size).decode("utf-8", "surrogatepass")
        nonce = name.decode("ascii")
        if how == CLONE:
            _reap()
            try:
                if kernel.clone_sibling():
                    continue
            except OSError:  # the last snippet's threads have reached the session's limit
                _report(f'{{"crowded": true, "nonce": "{nonce}"}}')
                continue
            _report(f'{{"runner": {os.getpid()}, "nonce": "{nonce}"}}')
        outcome, error = _run(code, namespace, first=how != CLONE, compile_only=how == COMPILE)
        _let_go_of_files()
        said = "null" if error is None else json.dumps(error)
        _report(f'{{"outcome": "{outcome}", "error": {said}, "nonce": "{nonce}"}}')


def _reap() -> None:
    """Reaps killed children of the last snippet, which would otherwise count as processes."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _every_file() -> select.poll:
    poll = select.poll()
    for descriptor in range(KEPT_DESCRIPTORS, _OPEN_FILES):
        poll.register(descriptor, 0)
    return poll


_FILES = _every_file()


def _open_files() -> list[int]:
    """Descriptors beyond those that a session keeps."""
    closed = _FILES.poll(0)  # no events are requested, so open ones report nothing or a hang-up
    if len(closed) == _OPEN_FILES - KEPT_DESCRIPTORS and all(event & select.POLLNVAL for _, event in closed):
        return []
    free = {descriptor for descriptor, event in closed if event & select.POLLNVAL}
    return [descriptor for descriptor in range(KEPT_DESCRIPTORS, _OPEN_FILES) if descriptor not in free]


def _let_go_of_files() -> None:
    """Closes files and pipes after a snippet: their content would be shared with the state before it.

    Their numbers are replaced by /dev/null, so that an object with a stale one cannot reach a later file.
    """
    for descriptor in _open_files():
        with contextlib.suppress(OSError):  # a snippet may have closed its standard error
            os.dup2(2, descriptor)


def _stream() -> io.TextIOWrapper:
    """A fresh standard output, unaffected by earlier snippets."""
    # Line-buffered, so that output before a hang is not lost with the process.
    return io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(OUTPUT, "w", closefd=False), 1 << 16),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


@functools.cache
def _first_stream() -> io.TextIOWrapper:
    """Prepared by the zygote for the first snippets of all sessions."""
    return _stream()


def _run(code: str, namespace: dict[str, object], *, first: bool, compile_only: bool = False) -> tuple[str, str | None]:
    os.dup2(SAVED_OUTPUT, OUTPUT)
    stream = _first_stream() if first else _stream()
    sys.stdout = sys.__stdout__ = stream
    try:
        try:
            compiled = compile(code, "<string>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            return "invalid_code", _describe(error)
        if compile_only:
            return "ok", None
        try:
            exec(compiled, namespace)
        except SystemExit as error:
            return "exit", _describe_exit(error)
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
"""A class's real name, regardless of its metaclass."""


def _describe(error: BaseException) -> str:
    name = _class_name(type(error))
    try:
        # A subclass of str may run code in len() or when formatted.
        description = f"{name}: {str.__str__(str(error))}"
    except BaseException as failure:
        description = f"{name}: <str() of this exception raised {_class_name(type(failure))}>"
    return frames.clip(frames.encodable(description))


def _describe_exit(error: SystemExit) -> str:
    code = error.code
    if type(code) is int and code.bit_length() > 64:
        return "sys.exit(an integer of more than 64 bits)"
    if type(code) in (int, str, type(None)):
        return frames.encodable(f"sys.exit({code!r:.200})")
    return "sys.exit"


def _read(size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(COMMANDS, size)
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _report(message: str) -> None:
    data = message.encode("ascii")
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(REPORTS, data) :]
