"""Guests in Podman, run by root and by an ordinary user with subordinate ids."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genprm.sandbox import SandboxError, image, open_sandbox
from genprm.sandbox.attacks import ATTACKS
from genprm.sandbox.podman import _checked  # pyright: ignore[reportPrivateUsage]
from tests.conftest import ROOT, missing

from .conftest import contained, end_the_host, ordinary_user

NOBODY = 65534
CHOSEN = ("become-root", "capabilities", "host-files", "network", "secrets", "fork-bomb", "daemon", "other-sessions",
          "fill-scratch-with-files", "rollback", "kill-supervisor", "slow-clone")  # fmt: skip
"""One of each kind."""
AS_USER = """
import asyncio, json
from genprm.sandbox import Limits, open_sandbox
async def main():
    async with open_sandbox("podman", lanes=1, limits=Limits(memory_mb=128)) as box, box.session() as session:
        await session.run("x = 1")
        await session.run("import os; os._exit(3)")
        print(json.dumps([(await session.run("print(x)")).stdout, box.isolation, box.note]))
asyncio.run(main())
"""


def copy_base(podman: list[str], environment: dict[str, str]) -> None:
    """Copies the sandbox's base image from Docker to Podman, if it is not there."""
    present = subprocess.run([*podman, "image", "exists", image.LOCAL_BASE], env=environment, cwd="/", check=False)
    if present.returncode == 0:
        return
    if shutil.which("docker") is None:
        missing("Podman has no base image, and there is no Docker to copy it from")
    with subprocess.Popen(["docker", "save", image.LOCAL_BASE], stdout=subprocess.PIPE) as saved:
        loaded = subprocess.run([*podman, "load", "--quiet"], stdin=saved.stdout, env=environment, cwd="/", check=False)
    if saved.returncode or loaded.returncode:
        missing(f"the base image {image.LOCAL_BASE} cannot be copied from Docker to Podman")


def containers() -> set[str]:
    """The containers of Podman, running or not."""
    listed = subprocess.run(["podman", "ps", "--all", "--quiet"], capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def no_podman() -> str | None:
    """Why tests of Podman cannot run."""
    return None if shutil.which("podman") else "Podman is not installed"


@pytest.mark.podman
@pytest.mark.slow
async def test_attacks_of_each_kind_are_contained() -> None:
    if reason := no_podman():
        missing(reason)
    copy_base(["podman"], dict(os.environ))
    chosen = tuple(attack for attack in ATTACKS if attack.name in CHOSEN)
    assert len(chosen) == len(CHOSEN)
    await contained("podman", chosen)


@pytest.mark.podman
@pytest.mark.slow
async def test_auto_takes_podman_where_nothing_else_works_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if (podman := shutil.which("podman")) is None:
        missing("Podman is not installed")
    copy_base(["podman"], dict(os.environ))
    (tmp_path / "podman").symlink_to(podman)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    async with open_sandbox() as box, box.session() as session:
        assert (await session.run("print(1)")).stdout == "1\n"
        assert "no Docker engine answers" in box.note
        assert "bubblewrap is not installed" in box.note
        assert ": Podman " in box.note


@pytest.mark.podman
@pytest.mark.slow
def test_guests_end_when_the_host_process_dies(tmp_path: Path) -> None:
    if reason := no_podman():
        missing(reason)
    copy_base(["podman"], dict(os.environ))
    before = containers()
    # A process that is killed leaves its temporary folder.
    end_the_host("podman", signal.SIGKILL, {**os.environ, "TMPDIR": str(tmp_path)})
    end = time.monotonic() + 30
    while containers() - before and time.monotonic() < end:
        time.sleep(0.1)
    assert not containers() - before


@pytest.mark.podman
@pytest.mark.slow
def test_an_ordinary_user_runs_it_with_subordinate_ids() -> None:
    if (reason := no_podman()) or (reason := None if shutil.which("newuidmap") else "uidmap is not installed"):
        missing(reason)
    if os.getuid() != 0:
        missing("giving a user subordinate ids needs root")
    if not all(Path(file).exists() for file in ("/etc/subuid", "/etc/subgid")):
        missing("there is no /etc/subuid and /etc/subgid to mount over")
    home = Path("/tmp", f"genprm-rootless-{os.getpid()}")
    ids = home / "subordinate"
    podman = ordinary_user("--pid", "--fork", "--kill-child", "--mount-proc", first=(
        f"set -e; mount --bind {ids} /etc/subuid; mount --bind {ids} /etc/subgid"
    ))  # fmt: skip
    # Not its choice by itself with every version: `vfs` copies the whole image for each container.
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home), "STORAGE_DRIVER": "overlay",
    }  # fmt: skip
    run = [sys.executable, "-B", "-c", AS_USER]
    home.mkdir(mode=0o700)
    try:
        os.chown(home, NOBODY, NOBODY)
        ids.write_text("")
        refused = subprocess.run(
            [*podman, *run], env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=300
        )
        assert "Podman maps only 1 of the 60000 users that sessions need" in refused.stderr
        ids.write_text("nobody:100000:65536\n")
        copy_base([*podman, "podman"], environment)
        answer = subprocess.run(
            [*podman, *run], env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=300
        )
        assert answer.returncode == 0, answer.stderr
        stdout, isolation, note = json.loads(answer.stdout)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert (stdout, isolation) == ("1\n", "users")
    assert "(rootless)" in note
    cgroup_v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert ("Podman ignores" in note) is not cgroup_v2


def test_too_few_subordinate_ids_are_named() -> None:
    host = {"security": {"rootless": True}, "cgroupVersion": "v2", "idMappings": {
        "uidmap": [{"size": 1}, {"size": 65536}], "gidmap": [{"size": 1}]}}  # fmt: skip
    with pytest.raises(SandboxError, match=r"maps only 1 of .*usermod --add-subuids"):
        _checked(json.dumps({"host": host, "version": {"Version": "5.0"}}))


@pytest.mark.parametrize("info", ["", "[]", '{"host": {}}'])
def test_an_unknown_answer_of_podman_is_quoted(info: str) -> None:
    with pytest.raises(SandboxError, match="podman info"):
        _checked(info)
