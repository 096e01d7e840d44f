"""Machines on which isolation is hard or impossible: each works all the same, or names the one thing to change.

Namespaces, capabilities, system calls and sockets are really taken away, by `unshare`, `setpriv` and a seccomp filter.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from genprm.sandbox import Limits, SandboxError, open_sandbox
from genprm.sandbox.checks import diagnose
from genprm.sandbox.guest.seccomp import NEW_NAMESPACES
from genprm.sandbox.guest_config import guest_config
from genprm.sandbox.lane import LaneBroken
from genprm.sandbox.remedies import Host, look, remedy
from tests.conftest import ROOT, missing

from .conftest import no_bubblewrap

pytestmark = pytest.mark.slow

TRY = """
import asyncio, ctypes, json, sys
from genprm.sandbox import Limits, SandboxError, open_sandbox
from genprm.sandbox.guest import kernel
backend, program = sys.argv[1], bytes.fromhex(sys.argv[2])
if program:
    kernel.no_new_privileges()
    kernel.install_filter(kernel.Filter(len(program) // 8, program))
async def main():
    try:
        async with open_sandbox(backend, lanes=1, limits=Limits(memory_mb=128)) as box, box.session() as session:
            await session.run("x = 1")
            await session.run("import os; os._exit(3)")
            print(json.dumps({"stdout": (await session.run("print(x)")).stdout, "isolation": box.isolation}))
    except SandboxError as error:
        print(json.dumps({"error": str(error)}))
asyncio.run(main())
"""
AARCH64 = platform.machine() == "aarch64"
CLONE, UNSHARE = (220, 97) if AARCH64 else (56, 272)
PIDFD_OPEN, PIDFD_SEND_SIGNAL = 434, 424
ENOSYS, EPERM = 38, 1


def attempt(
    before: Sequence[str] = (),
    *,
    backend: str = "bubblewrap",
    program: bytes = b"",
    environment: dict[str, str] | None = None,
) -> dict[str, str]:
    """What comes of a sandbox under `before`, with a system call filter; what it printed, or its error."""
    if reason := no_bubblewrap():
        missing(reason)
    if os.getuid() != 0 or not all(shutil.which(tool) for tool in ("unshare", "setpriv")):
        missing("taking rights away needs root, unshare and setpriv")
    command = [*before, sys.executable, "-c", TRY, backend, program.hex()]
    inherited = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, env=inherited | (environment or {}), timeout=600
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def refusing(numbers: dict[int, int]) -> bytes:
    """A filter under which these calls fail with these error numbers."""
    code = [(0x20, 0, 0, 0)]
    for number, error in numbers.items():
        code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error)]
    return b"".join(struct.pack("<HBBI", *one) for one in [*code, (0x06, 0, 0, 0x7FFF0000)])


def without_namespaces() -> bytes:
    """What Docker's default profile does to an ordinary container: no clone with a namespace's flag, no unshare."""
    code = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, UNSHARE),
        (0x06, 0, 0, 0x50000 | EPERM),
        (0x15, 0, 3, CLONE),
        (0x20, 0, 0, 16),
        (0x45, 0, 1, NEW_NAMESPACES),
        (0x06, 0, 0, 0x50000 | EPERM),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    return b"".join(struct.pack("<HBBI", *one) for one in code)


def in_namespace(then: str, *flags: str) -> list[str]:
    """As root of a new user namespace, of one user, after a shell command."""
    return ["unshare", "--user", "--map-root-user", *flags, "sh", "-c", f'{then}; exec "$@"', "sh"]


WORKS_BY_NAMESPACES = {"stdout": "1\n", "isolation": "namespaces"}


@pytest.mark.bubblewrap
def test_a_container_s_root_without_sys_admin_makes_namespaces_of_its_own() -> None:
    assert attempt(["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]) == WORKS_BY_NAMESPACES


@pytest.mark.bubblewrap
def test_a_root_that_is_the_only_user_makes_namespaces_of_its_own() -> None:
    assert attempt(in_namespace("true")) == WORKS_BY_NAMESPACES


@pytest.mark.bubblewrap
def test_a_kernel_without_descriptors_of_processes_serves() -> None:
    program = refusing({PIDFD_OPEN: ENOSYS, PIDFD_SEND_SIGNAL: ENOSYS})
    assert attempt(program=program) == {"stdout": "1\n", "isolation": "users"}


@pytest.mark.bubblewrap
@pytest.mark.parametrize(
    ("before", "program", "todo"),
    [
        pytest.param(
            in_namespace("echo 0 > /proc/sys/user/max_user_namespaces"),
            b"",
            "user namespaces are switched off: `sysctl -w user.max_user_namespaces=15000`",
            id="switched-off",
        ),
        pytest.param(
            in_namespace("echo 1 > /proc/sys/user/max_user_namespaces"),
            b"",
            "raise `user.max_user_namespaces` (it is 1)",
            id="too-few",
        ),
        pytest.param([], without_namespaces(), "this container's seccomp profile forbids namespaces", id="seccomp"),
        pytest.param(
            in_namespace("mount -t tmpfs none /proc/tty", "--mount"),
            b"",
            "parts of /proc are masked here",
            id="masked-proc",
        ),
    ],
)  # fmt: skip
def test_where_nothing_isolates_it_refuses_with_what_to_change(before: list[str], program: bytes, todo: str) -> None:
    error = attempt(before, program=program)["error"]
    assert todo in error
    assert "or run the code on another machine (`genprm sandbox serve` there" in error


@pytest.mark.bubblewrap
def test_with_nothing_at_all_auto_names_every_obstacle() -> None:
    environment = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    error = attempt(
        in_namespace("echo 0 > /proc/sys/user/max_user_namespaces"), backend="auto", environment=environment
    )["error"]
    for obstacle in ("no Docker engine answers at", "user.max_user_namespaces", "odman", "genprm sandbox serve"):
        assert obstacle in error


@pytest.mark.bubblewrap
def test_the_doctor_names_what_is_missing() -> None:
    if os.getuid() != 0 or not shutil.which("unshare"):
        missing("taking namespaces away needs root and unshare")
    switched_off = in_namespace("echo 0 > /proc/sys/user/max_user_namespaces")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    command = [*switched_off, sys.executable, "-m", "genprm.cli.main", "doctor"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    said = " ".join(answer.stdout.split())
    assert "Not ready: Sandbox" in said
    assert answer.returncode == 1
    assert "sysctl -w user.max_user_namespaces=15000" in said
    assert "genprm sandbox serve" in said


def test_the_guest_names_what_gvisor_lacks() -> None:
    """Debian's runsc. The guest must not start there without knowing how its sessions end."""
    if os.getuid() != 0 or not shutil.which("runsc"):
        missing("gVisor's `runsc` is not installed, or this is not root")
    config = guest_config(Limits(memory_mb=64), proc="/proc", readable=("/usr",))
    command = ["runsc", "--platform=ptrace", "--network=none", "do", "--", sys.executable, "-s", "-P", "-m", "guest"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "sandbox")}
    answer = subprocess.run(
        [*command, config],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "this kernel lacks clone with CLONE_PARENT and /proc/PID/task/TID/children" in answer.stderr


@pytest.mark.docker
def test_a_user_outside_of_the_engine_s_group_is_told_which_one(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        path.chmod(0o660)
        os.chown(path, 65534, 65534)
        error = attempt(
            ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"],
            backend="docker",
            environment={"DOCKER_HOST": f"unix://{path}"},
        )["error"]
    assert "may not use the Docker engine" in error
    assert "sudo usermod -aG nogroup $USER" in error
    assert "start" not in error


@pytest.mark.docker
async def test_the_context_of_the_docker_command_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib
    import hashlib

    from genprm.sandbox.docker import connect

    folder = tmp_path / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    folder.mkdir(parents=True)
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    meta = {"Name": "mine", "Metadata": {}, "Endpoints": {"docker": {"Host": where, "SkipTLSVerify": False}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    try:
        with contextlib.closing(connect()) as client:
            assert client.ping()
    except SandboxError as error:
        missing(str(error))
    monkeypatch.setenv("DOCKER_CONTEXT", "nosuch")
    with pytest.raises(SandboxError, match="Docker context 'nosuch'"):
        await open_sandbox("docker").start()


@pytest.mark.docker
@pytest.mark.bubblewrap
async def test_auto_goes_on_when_a_launch_fails_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from genprm.sandbox.docker import DockerBackend

    async def launch(self: DockerBackend) -> object:
        raise LaneBroken("the engine starts no container: no space left on device")

    monkeypatch.setattr(DockerBackend, "launch", launch)
    if reason := no_bubblewrap():
        missing(reason)
    async with open_sandbox("auto", lanes=1, limits=Limits(memory_mb=64)) as box, box.session() as session:
        assert box.backend == "bubblewrap"
        assert "because" in box.note
        assert (await session.run("print(1)")).ok
    with pytest.raises(SandboxError, match="no space left on device"):
        await open_sandbox("docker").start()


HOST = Host(1000, frozenset(), 1 << 32, 15000, True, False, False, None)


@pytest.mark.parametrize(
    ("host", "complaint", "todo"),
    [
        ({"apparmor_restricts": True}, "bwrap: setting up uid map: Permission denied",
         "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or allow them to bwrap alone (`profile bwrap"),
        ({"userns_switch": False}, "bwrap: No permissions to create new", "kernel.unprivileged_userns_clone=1"),
        ({"filtered": True, "container": "kubernetes"}, "bwrap: Operation not permitted", "`hostUsers: false`"),
        ({"filtered": True, "container": "docker"}, "bwrap: Operation not permitted", "--security-opt seccomp="),
        ({"filtered": True, "container": "kubernetes"}, "bwrap: Can't mount proc", "`procMount: Unmasked`"),
        ({"most_namespaces": 0, "container": "apptainer"}, "", "user.max_user_namespaces=15000"),
        ({}, "bwrap: something new", "namespaces cannot be created here"),
    ],
)  # fmt: skip
def test_the_remedy_fits_the_machine(host: dict[str, object], complaint: str, todo: str) -> None:
    """Where the machine cannot be had here: Ubuntu 24.04, Debian's old switch, Kubernetes."""
    assert todo in remedy(complaint, dataclasses.replace(HOST, **host))  # type: ignore[arg-type]


def test_root_of_a_container_is_not_taken_for_root() -> None:
    root = dataclasses.replace(HOST, uid=0, capabilities=frozenset(range(41)))
    assert root.is_root
    assert not dataclasses.replace(root, mapped_users=1).is_root
    assert not dataclasses.replace(root, capabilities=root.capabilities - {21}).is_root
    assert not HOST.is_root
    assert look().mapped_users > 0


async def test_an_unknown_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    for backend in ("bubblewrap", "docker", "podman", "auto"):
        with pytest.raises(SandboxError, match="no system call table for 'riscv64'"):
            await open_sandbox(backend).start()


def test_the_diagnosis_survives_an_unknown_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    checks = {check.name: check for check in diagnose()}
    assert "'riscv64'" in checks["architecture"].text
