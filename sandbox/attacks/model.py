"""The definition of attacks."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from ..results import Status

ESCAPED = "ESCAPED"
"""Printed by an attack that succeeds."""

OK, EXCEPTION, EXIT = Status.OK, Status.EXCEPTION, Status.EXIT
TIMEOUT, MEMORY, OUTPUT_LIMIT = Status.TIMEOUT, Status.MEMORY, Status.OUTPUT_LIMIT
KILLED, INVALID_CODE = Status.KILLED, Status.INVALID_CODE


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack."""

    name: str
    tries: str
    """Description of the attempt."""
    code: tuple[str, ...]
    """Snippets of one session, run in order; the last result is judged, and all are searched for ESCAPED."""
    allowed: frozenset[Status]
    """Allowed statuses of the last snippet."""
    longest_s: float
    """Longest wall time of the last snippet."""


def attack(name: str, tries: str, *code: str, allowed: Status | set[Status], longest_s: float = 1.25) -> Attack:
    """Creates an attack; its code is dedented."""
    statuses = {allowed} if isinstance(allowed, Status) else allowed
    snippets = tuple(textwrap.dedent(snippet).strip("\n") for snippet in code)
    return Attack(name, tries, snippets, frozenset(statuses), longest_s)


SYSCALLS = '''
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
COLUMN = {"x86_64": 0, "aarch64": 1}[os.uname().machine]

def refused(name, numbers, *arguments):
    """A call must come back with EPERM or ENOSYS: any other error says that it reached the kernel's own code."""
    number = numbers[COLUMN]
    if number is None:
        return
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    error = ctypes.get_errno()
    if result >= 0 or error not in (1, 38):
        print("ESCAPED", name, result, os.strerror(error))
'''
"""Prefix of attacks that make system calls by number."""


def system_calls(body: str) -> str:
    """Code of an attack that makes system calls by number."""
    return SYSCALLS + textwrap.dedent(body)
