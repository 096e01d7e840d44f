"""System calls that the standard library does not wrap."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import platform
import random

# PyDLL keeps the interpreter's lock, which a process must hold while it is cloned.
_libc = ctypes.PyDLL(None, use_errno=True)
_MACHINE = platform.machine()
# On an unlisted architecture these calls fail; `seccomp.session_filter` reports it before.
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(_MACHINE, -1)
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}.get(_MACHINE, -1)
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_SIGCHLD = 17

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000

CAP_SYS_ADMIN = 21
_LAST_CAP = 63


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _syscall(number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments))


def clone_alone(flags: int = 0) -> int:
    """Fork, with `CLONE_` flags, for a process that has one thread and has had no other.

    Python's fork hooks are not needed there: no other thread holds a lock or has state. They would reseed the random
        generators and walk through every lock, which touches, and so copies, hundreds of pages.
    """
    zero = ctypes.c_long(0)
    return _syscall(_SYS_CLONE, ctypes.c_long(flags | _SIGCHLD), *(zero,) * 4)


def clone_sibling() -> int:
    """Fork, but the child's parent is the caller's parent, which receives its wait status.

    As with fork, the child gets 0. Python's own state is restored on both sides, and the global random generator keeps
    its state, which Python's fork hook would reseed.
    """
    state = random.getstate()
    ctypes.pythonapi.PyOS_BeforeFork()
    try:
        pid = clone_alone(CLONE_PARENT)
    except OSError:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        raise
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        random.setstate(state)
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return pid


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_long(0)
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_long(value), zero, zero, zero))


def become_subreaper() -> None:
    """Orphans of any descendant become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """SIGKILL when the parent dies."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def hide_memory(hidden: bool = True) -> None:
    """No other process of the same user may read this one's memory, descriptors or environment.

    Its files in /proc then belong to root, so a process that has to write to one does that first.
    """
    _prctl(_PR_SET_DUMPABLE, 0 if hidden else 1)


def no_new_privileges() -> None:
    """Executing a file can no longer raise privileges. Needed for an unprivileged seccomp filter."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities(keep: frozenset[int] = frozenset()) -> None:
    """Gives up all capabilities except these, and the bounding set, so that no later exec regains any.

    Raises:
        OSError: the bounding set is larger than what is kept, and this process may not reduce it.
    """
    for capability in range(_LAST_CAP + 1):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)  # held ones stay; executing a file gives none back
        except OSError as error:
            if error.errno == errno.EPERM and _bounding_set() <= keep:
                break  # no CAP_SETPCAP, as in Docker, which has already reduced the set
            if error.errno != errno.EINVAL:
                raise
            break  # past the kernel's last capability
    _syscall(_SYS_CAPSET, *_capability_sets(keep))


def _bounding_set() -> frozenset[int]:
    return frozenset(bit for bit in range(_LAST_CAP + 1) if _libc.prctl(_PR_CAPBSET_READ, bit, 0, 0, 0) == 1)


def renounce_capabilities() -> None:
    """Gives up all capabilities, after the bounding set."""
    _syscall(_SYS_CAPSET, *_NO_CAPABILITIES)


def _capability_sets(keep: frozenset[int]) -> tuple[object, object]:
    """Arguments of capset: effective, permitted and inheritable sets of this process."""
    low = sum(1 << c for c in keep if c < 32)
    high = sum(1 << (c - 32) for c in keep if c >= 32)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    return ctypes.byref(header), ctypes.byref(data)


_NO_CAPABILITIES = _capability_sets(frozenset())


def capabilities(proc: str) -> frozenset[int]:
    """Effective capabilities of this process."""
    with open(f"{proc}/self/status", encoding="ascii") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    return frozenset(bit for bit in range(_LAST_CAP + 1) if mask >> bit & 1)


class Filter(ctypes.Structure):
    """A seccomp filter in the kernel's format."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter(program: Filter) -> None:
    """Install a seccomp filter. Children inherit it; it cannot be removed."""
    zero = ctypes.c_long(0)
    mode = ctypes.c_long(_SECCOMP_MODE_FILTER)
    _check(_libc.prctl(ctypes.c_int(_PR_SET_SECCOMP), mode, ctypes.byref(program), zero, zero))


def mount_tmpfs(target: str, options: str, flags: int = MS_NOSUID | MS_NODEV | MS_NOEXEC) -> None:
    """Mount a fresh tmpfs."""
    _check(_libc.mount(b"tmpfs", target.encode(), b"tmpfs", ctypes.c_ulong(flags), options.encode()))


def make_mounts_private() -> None:
    """Later mounts stay in this namespace."""
    _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))


_HUGE_PAGE = 2 << 20
_MADV_COLLAPSE = 25


def collapse_memory(maps: io.TextIOWrapper) -> None:
    """Puts this process's private memory into huge pages, so that cloning it copies dozens of entries, not thousands.

    Measured: creating and ending a clone of a warm interpreter costs a third of what it costs with small pages. A page
    that is written to is split again, only for the writer. Needs Linux 6.1; no effect elsewhere.

    Args:
        maps: this process's /proc/self/maps.
    """
    advice, size = ctypes.c_int(_MADV_COLLAPSE), ctypes.c_size_t(_HUGE_PAGE)
    maps.seek(0)
    for span, rights, _, _, inode, *name in [line.split() for line in maps]:
        if rights != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        start, end = (int(bound, 16) for bound in span.split("-"))
        for address in range(-(-start // _HUGE_PAGE) * _HUGE_PAGE, end - _HUGE_PAGE + 1, _HUGE_PAGE):
            _libc.madvise(ctypes.c_void_p(address), size, advice)


_READ = 1 | 4 | 8  # execute, read file, read directory
_FILES = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}
"""File-system rights of each Landlock version."""


def landlock_version() -> int:
    """Version of Landlock in this kernel, 0 if there is none."""
    zero = ctypes.c_long(0)
    return max(0, _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), zero, zero, ctypes.c_long(1)))


def landlock_signals(version: int) -> int | None:
    """A rule that confines signals and abstract sockets to the processes that enter it; None before Linux 6.12."""
    if version < 6:
        return None
    attributes = (ctypes.c_uint64 * 3)(0, 0, 3)  # no files, no network, both scopes
    return _syscall(_LANDLOCK_CREATE, ctypes.byref(attributes), ctypes.c_long(24), ctypes.c_long(0))


def landlock_enter(rule: int) -> None:
    """Confines this process, and its later clones, by its own copy of a rule."""
    _syscall(_LANDLOCK_RESTRICT, ctypes.c_long(rule), ctypes.c_long(0))


def landlock(version: int, readable: tuple[str, ...], scratch: str) -> None:
    """Allows reading only these trees and writing only the scratch folder. Needs no privilege.

    Without Landlock, /proc and files that are readable by mode stay visible; the other layers still hold.
    """
    no_new_privileges()
    handled = _FILES[min(version, 4)]
    ruleset = _syscall(_LANDLOCK_CREATE, ctypes.byref(ctypes.c_uint64(handled)), ctypes.c_long(8), ctypes.c_long(0))
    file_rights = handled & (1 | 2 | 4 | 0x4000)
    rules = [(path, _READ) for path in readable if os.path.exists(path)]
    rules += [(f"/dev/{name}", 2 | 4) for name in ("null", "zero", "full", "random", "urandom")]
    rules.append((scratch, handled & ~(1 | 0x40 | 0x200 | 0x800)))  # no execution, devices, sockets
    try:
        for path, rights in rules:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                wanted = rights if os.path.isdir(path) else rights & file_rights
                rule = wanted.to_bytes(8, "little") + descriptor.to_bytes(4, "little")
                zero = ctypes.c_long(0)
                _syscall(_LANDLOCK_ADD, ctypes.c_long(ruleset), ctypes.c_long(1), ctypes.c_char_p(rule), zero)
            finally:
                os.close(descriptor)
        _syscall(_LANDLOCK_RESTRICT, ctypes.c_long(ruleset), ctypes.c_long(0))
    finally:
        os.close(ruleset)
