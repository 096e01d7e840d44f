"""The system calls that a snippet may make: one table for the guest's filter and Docker's profile.

This is an allow list. Other calls give EPERM, so that libraries continue without them; numbers newer than this table
give ENOSYS, so that the C library falls back to an older call (mainly clone3 to clone). The list has no call to open a
socket, trace, mount, create a namespace, load a BPF program or execute a file.
"""

from __future__ import annotations

import platform
import struct

# name: (x86_64, aarch64); None where the architecture has no such call.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # files
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "lseek": (8, 62), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65),
    "writev": (20, 66), "access": (21, None), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "sendfile": (40, 71), "fsync": (74, 82), "fdatasync": (75, 83),
    "truncate": (76, 45), "ftruncate": (77, 46), "getdents": (78, None), "getdents64": (217, 61), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "creat": (85, None), "link": (86, None),
    "linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35), "symlink": (88, None), "symlinkat": (266, 36),
    "readlink": (89, None), "readlinkat": (267, 78), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "umask": (95, 166), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88),
    "openat": (257, 56), "newfstatat": (262, 79), "faccessat": (269, 48),
    "faccessat2": (439, 439), "statx": (332, 291), "fallocate": (285, 47), "fadvise64": (221, 223),
    "copy_file_range": (326, 285), "pipe": (22, None), "pipe2": (293, 59), "close_range": (436, 436),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    # memory
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "msync": (26, 227), "mincore": (27, 232), "madvise": (28, 233),
    # processes, threads and signals of the session's own user
    "vfork": (58, None), "fork": (57, None), "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260),
    "waitid": (247, 95), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "futex": (202, 98),
    "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "membarrier": (324, 283), "arch_prctl": (158, None), "restart_syscall": (219, 128), "pause": (34, None),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "setsid": (112, 157), "setpgid": (109, 154),
    "sched_yield": (24, 124), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    # time and facts
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrandom": (318, 278), "uname": (63, 160),
    "sysinfo": (99, 179), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173),
    "getpgrp": (111, None), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "getrlimit": (97, 163), "getrusage": (98, 165), "getcpu": (309, 168),
}  # fmt: skip

OF_ITSELF: dict[str, tuple[int | None, int | None]] = {
    "getpgid": (121, 155), "getsid": (124, 156), "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "get_robust_list": (274, 100), "getpriority": (140, 141),
}  # fmt: skip
"""Allowed only with process 0, the caller: other answers would reveal other processes."""

NEW_NAMESPACES = 0x7E020000
"""All CLONE_NEW* flags of clone."""
_TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: used by Python on any file."""
_THREAD_NAMES = (15, 16)
"""PR_SET_NAME, PR_GET_NAME."""

_FILE_QUESTIONS = (0, 1, 2, 3, 4, 1030, 1032)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Record locks, leases, signals and
notifications on shared libraries would be covert channels between sessions; a larger pipe takes others' memory."""
_MAP_SHARED = 1
"""Also in MAP_SHARED_VALIDATE. A shared mapping would keep the writes of an undone snippet."""

_BY_ARGUMENT: dict[str, tuple[int, int]] = {
    "clone": (56, 220), "ioctl": (16, 29), "prctl": (157, 167), "prlimit64": (302, 261), "mmap": (9, 222),
    "fcntl": (72, 25),
}  # fmt: skip
"""Calls allowed with certain arguments."""
_SUPERVISOR: dict[str, tuple[int, int]] = {
    "capget": (125, 90), "capset": (126, 91), "landlock_add_rule": (445, 445), "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "recvfrom": (45, 207), "recvmsg": (47, 212), "sendmsg": (46, 211), "sendto": (44, 206), "setgroups": (116, 159),
    "setresgid": (119, 149), "setresuid": (117, 147), "setregid": (114, 143), "setreuid": (113, 145),
    "setgid": (106, 144), "setuid": (105, 146), "setrlimit": (160, 164), "statfs": (137, 43), "fstatfs": (138, 44),
    "seccomp": (317, 277),
}  # fmt: skip
"""Additional calls of supervisor, zygotes and keepers, which a session's own filter forbids."""
_CONTAINER_START = ("execve", "execveat", "setfsgid", "setfsuid")
_MOUNT = {"x86_64": 165, "aarch64": 40}
_SOCKETPAIR = {"x86_64": 53, "aarch64": 199}

_EPERM, _ENOSYS = 1, 38
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_FIRST_UNKNOWN = 435  # clone3: the first number treated as unknown to the kernel
_X32_BIT = 0x40000000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _JUMP, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data

_Code = list[tuple[int, int, int, int]]
"""Instructions of a filter: opcode, jump if true, jump if false, operand."""


def _argument(index: int, high: bool = False) -> int:
    return 16 + 8 * index + (4 if high else 0)


def why_unknown(machine: str | None = None) -> str | None:
    """Why no filter can be made for an architecture (this one by default), or None when one can."""
    machine = machine or platform.machine()
    if machine in _AUDIT_ARCH:
        return None
    return f"the sandbox has no system call table for {machine!r}; it knows {sorted(_AUDIT_ARCH)}"


def session_filter(machine: str | None = None, *, also: tuple[str, ...] = ()) -> bytes:
    """The filter of a session as an array of `struct sock_filter`.

    Args:
        machine: architecture; this one by default.
        also: names of supervisor calls to allow too.
    """
    column, answers = _allowed(machine)
    for name, numbers in OF_ITSELF.items():
        if (number := numbers[column]) is not None:
            answers[number] = _one_of(_argument(1 if name == "getpriority" else 0), (0,))
    number = {name: numbers[column] for name, numbers in _BY_ARGUMENT.items()}
    answers[number["clone"]] = _without_bits(_argument(0), NEW_NAMESPACES)
    answers[number["mmap"]] = _without_bits(_argument(3), _MAP_SHARED)
    answers[number["fcntl"]] = _one_of(_argument(1), _FILE_QUESTIONS)
    answers[number["ioctl"]] = _one_of(_argument(1), _TERMINAL_QUESTIONS)
    answers[number["prctl"]] = _one_of(_argument(0), _THREAD_NAMES)
    # prlimit64 may read its own limits: the pointer to a new limit must be null.
    answers[number["prlimit64"]] = [
        (_LOAD, 0, 0, _argument(0)),
        (_JUMP_EQUAL, 0, 5, 0),
        (_LOAD, 0, 0, _argument(2)),
        (_JUMP_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, _argument(2, high=True)),
        (_JUMP_EQUAL, 0, 1, 0),
        *_answer(_ALLOW),
        *_answer(_ERRNO | _EPERM),
    ]
    answers |= {_SUPERVISOR[name][column]: _answer(_ALLOW) for name in also}
    return _assemble(machine, answers)


def guest_filter(machine: str | None = None, *, namespaces: bool) -> bytes:
    """The filter of supervisor, zygotes and keepers, inherited by everything in a guest.

    Args:
        machine: architecture; this one by default.
        namespaces: whether sessions get namespaces, which need unshare and mount.
    """
    column, answers = _allowed(machine)
    for table in (OF_ITSELF, _BY_ARGUMENT, _SUPERVISOR):
        answers |= {number: _answer(_ALLOW) for numbers in table.values() if (number := numbers[column]) is not None}
    name = machine or platform.machine()
    answers[_SOCKETPAIR[name]] = _one_of(_argument(0), (1,))  # AF_UNIX
    if namespaces:
        answers[_MOUNT[name]] = _answer(_ALLOW)
    else:
        answers[_BY_ARGUMENT["clone"][column]] = _without_bits(_argument(0), NEW_NAMESPACES)
    return _assemble(machine, answers)


def _allowed(machine: str | None) -> tuple[int, dict[int, _Code]]:
    """The column of an architecture, and an answer for everything that is always allowed."""
    if (reason := why_unknown(machine)) is not None:
        raise RuntimeError(reason)
    column = 0 if (machine or platform.machine()) == "x86_64" else 1
    return column, {number: _answer(_ALLOW) for numbers in ALLOWED.values() if (number := numbers[column]) is not None}


def _assemble(machine: str | None, answers: dict[int, _Code]) -> bytes:
    code: _Code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine or platform.machine()]),
        *_answer(_ERRNO | _EPERM),
        (_LOAD, 0, 0, _NUMBER),
        *_search(_stretches(answers)),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _answer(value: int) -> _Code:
    return [(_RETURN, 0, 0, value)]


def _one_of(offset: int, values: tuple[int, ...]) -> _Code:
    tests = [(_JUMP_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [(_LOAD, 0, 0, offset), *tests, *_answer(_ERRNO | _EPERM), *_answer(_ALLOW)]


def _without_bits(offset: int, bits: int) -> _Code:
    return [(_LOAD, 0, 0, offset), (_JUMP_ANY_BIT, 0, 1, bits), *_answer(_ERRNO | _EPERM), *_answer(_ALLOW)]


def _stretches(answers: dict[int, _Code]) -> list[tuple[int, _Code]]:
    """Ranges of numbers with the same answer, each with its first number, in order, from 0 to the end."""
    found: list[tuple[int, _Code]] = []
    edges = {0, _FIRST_UNKNOWN, _X32_BIT, *answers, *(number + 1 for number in answers)}
    for number in sorted(edges):
        unlisted = _ENOSYS if _FIRST_UNKNOWN <= number < _X32_BIT else _EPERM
        answer = answers.get(number, _answer(_ERRNO | unlisted))
        if not found or answer != found[-1][1]:
            found.append((number, answer))
    return found


def _search(stretches: list[tuple[int, _Code]]) -> _Code:
    """Binary search: for each session the kernel runs the filter once per system call, so its length matters."""
    if len(stretches) == 1:
        return stretches[0][1]
    middle = len(stretches) // 2
    below, above = _search(stretches[:middle]), _search(stretches[middle:])
    first = stretches[middle][0]
    if len(below) < 256:
        return [(_JUMP_AT_LEAST, len(below), 0, first), *below, *above]
    return [(_JUMP_AT_LEAST, 0, 1, first), (_JUMP, 0, 0, len(below)), *below, *above]


def docker_profile() -> dict[str, object]:
    """The same rules for the whole container in Docker's format, with the supervisor's additional calls."""
    allow = "SCMP_ACT_ALLOW"
    no_namespaces = {"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    unconditional = {*ALLOWED, *OF_ITSELF, *_BY_ARGUMENT, *_SUPERVISOR, *_CONTAINER_START} - {"clone"}
    local = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}  # AF_UNIX
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64" if platform.machine() == "x86_64" else "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": sorted(unconditional), "action": allow},
            {"names": ["clone"], "action": allow, "args": [no_namespaces]},
            {"names": ["socketpair"], "action": allow, "args": [local]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }
