# ruff: noqa: E501
from __future__ import annotations

import struct

import pytest

from genprm.sandbox.guest import seccomp

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
IOCTL = {"x86_64": 16, "aarch64": 29}
PRLIMIT = {"x86_64": 302, "aarch64": 261}
PRCTL = {"x86_64": 157, "aarch64": 167}
MMAP = {"x86_64": 9, "aarch64": 222}
FCNTL = {"x86_64": 72, "aarch64": 25}
# ptrace, mount, socket, connect, keyctl, bpf, perf_event_open, unshare, setns, io_uring_setup, userfaultfd, execve, memfd
FORBIDDEN = {
    "x86_64": (101, 165, 41, 42, 53, 250, 321, 298, 272, 308, 425, 323, 59, 322, 319, 310, 311, 133, 304, 105, 317),
    "aarch64": (117, 40, 198, 203, 199, 219, 280, 241, 97, 268, 425, 282, 221, 281, 279, 270, 271, 33, 265, 146, 277),
}


def decide(machine: str, number: int, *arguments: int, arch: int | None = None, program: bytes | None = None) -> int:
    """Run the filter as the kernel does."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<iIQ6Q", number, arch if arch is not None else ARCH[machine], 0, *padded)
    program = program or seccomp.session_filter(machine)
    accumulator, position = 0, 0
    while True:
        code, yes, no, k = struct.unpack_from("<HBBI", program, position * 8)
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x05:
            position += k
        elif code == 0x06:
            return k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            position += yes if holds else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_listed_call_is_allowed(machine: str) -> None:
    column = 0 if machine == "x86_64" else 1
    for name, numbers in seccomp.ALLOWED.items():
        number = numbers[column]
        if number is not None:
            assert decide(machine, number) == ALLOW, name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_two_names_share_a_number(machine: str) -> None:
    column = 0 if machine == "x86_64" else 1
    numbers = [numbers[column] for numbers in seccomp.ALLOWED.values() if numbers[column] is not None]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_dangerous_calls_give_eperm(machine: str) -> None:
    for number in FORBIDDEN[machine]:
        assert decide(machine, number) == EPERM, number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_unknown_calls_look_like_an_older_kernel(machine: str) -> None:
    assert decide(machine, 435) == ENOSYS  # clone3
    assert decide(machine, 462) == ENOSYS
    assert decide(machine, 100_000) == ENOSYS


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_other_architectures_are_refused(machine: str) -> None:
    assert decide(machine, 0, arch=0x40000003) == EPERM  # i386
    assert decide(machine, 63, arch=0xDEADBEEF) == EPERM
    if machine == "x86_64":
        assert decide(machine, 0x40000000) == EPERM  # x32 read


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_clone_makes_processes_and_threads_but_no_namespaces(machine: str) -> None:
    assert decide(machine, CLONE[machine], 17) == ALLOW
    assert decide(machine, CLONE[machine], 0x3D0F00) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, CLONE[machine], bit | 17) == EPERM


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments_decide_where_a_call_has_many_faces(machine: str) -> None:
    assert decide(machine, IOCTL[machine], 1, 0x5401) == ALLOW
    assert decide(machine, IOCTL[machine], 1, 0x5451) == ALLOW
    assert decide(machine, IOCTL[machine], 1, 0x5412) == EPERM  # TIOCSTI
    assert decide(machine, PRCTL[machine], 15) == ALLOW
    assert decide(machine, PRCTL[machine], 16) == ALLOW
    assert decide(machine, PRCTL[machine], 4) == EPERM  # PR_SET_DUMPABLE
    assert decide(machine, PRLIMIT[machine], 0, 7, 0) == ALLOW
    assert decide(machine, PRLIMIT[machine], 0, 7, 1 << 40) == EPERM
    assert decide(machine, PRLIMIT[machine], 0, 7, 4096) == EPERM
    assert decide(machine, PRLIMIT[machine], 1, 7, 0) == EPERM
    assert decide(machine, MMAP[machine], 0, 4096, 3, 0x22) == ALLOW  # private, anonymous
    for shared in (0x21, 0x01, 0x03):
        assert decide(machine, MMAP[machine], 0, 4096, 3, shared) == EPERM
    for question in (0, 1, 2, 3, 4, 1030):
        assert decide(machine, FCNTL[machine], 1, question) == ALLOW
    for question in (5, 6, 7, 8, 10, 36, 37, 38, 1024, 1026, 1031):  # locks, owners, leases, notes, pipe sizes
        assert decide(machine, FCNTL[machine], 1, question) == EPERM


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_session_may_ask_about_itself_alone(machine: str) -> None:
    column = 0 if machine == "x86_64" else 1
    for name, numbers in seccomp.OF_ITSELF.items():
        number = numbers[column]
        assert number is not None
        first = (0,) if name == "getpriority" else ()
        assert decide(machine, number, *first, 0) == ALLOW
        assert decide(machine, number, *first, 1) == EPERM


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("namespaces", [False, True])
def test_supervisor_and_keepers_are_filtered_too(machine: str, namespaces: bool) -> None:
    program = seccomp.guest_filter(machine, namespaces=namespaces)
    allowed_here = {"x86_64": (165,), "aarch64": (40,)}[machine]  # mount
    for number in FORBIDDEN[machine]:
        if number not in allowed_here and number not in (105, 146, 317, 277):  # setuid, seccomp
            assert decide(machine, number, program=program) == EPERM, number
    assert decide(machine, allowed_here[0], program=program) == (ALLOW if namespaces else EPERM)
    wanted = ALLOW if namespaces else EPERM
    assert decide(machine, CLONE[machine], 0x10000000 | 17, program=program) == wanted
    assert decide(machine, CLONE[machine], 17, program=program) == ALLOW


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(RuntimeError, match="riscv64"):
        seccomp.session_filter("riscv64")


def test_the_containers_profile_opens_nothing_dangerous() -> None:
    profile = seccomp.docker_profile()
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    rules = profile["syscalls"]
    assert isinstance(rules, list)
    open_without_condition = {
        name for rule in rules if "args" not in rule and "errnoRet" not in rule for name in rule["names"]
    }
    assert not open_without_condition & {
        "socket", "connect", "bind", "listen", "accept", "ptrace", "process_vm_readv", "process_vm_writev", "mount", "umount2",
        "pivot_root", "chroot", "unshare", "setns", "clone", "clone3", "bpf", "perf_event_open", "userfaultfd", "keyctl",
        "add_key", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register", "open_by_handle_at", "mknod",
        "mknodat", "personality", "kexec_load", "init_module", "finit_module", "clock_settime", "reboot", "swapon",
    }  # fmt: skip
