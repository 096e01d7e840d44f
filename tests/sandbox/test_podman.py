"""Guests in Podman, run by root and by an ordinary user with subordinate ids."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genprm.sandbox import SandboxError, image
from genprm.sandbox.attacks import ATTACK_LIMITS, ATTACKS, run_attacks
from genprm.sandbox.podman import _checked  # pyright: ignore[reportPrivateUsage]

from .conftest import REPOSITORY, missing, opened, ordinary_user

NOBODY = 65534
CHOSEN = ("become-root", "capabilities", "host-files", "network", "secrets", "fork-bomb", "daemon", "other-sessions",
          "fill-scratch-with-files", "rollback", "kill-supervisor", "slow-clone")  # fmt: skip
"""One of each kind, of those that do not wait for a limit."""
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
    box = await opened("podman", ATTACK_LIMITS)
    try:
        assert box.isolation == "users"
        failures = {outcome.attack.name: outcome.failures async for outcome in run_attacks(box, chosen)}
    finally:
        await box.close()
    assert len(failures) == len(CHOSEN)
    assert not {name: why for name, why in failures.items() if why}


@pytest.mark.podman
@pytest.mark.slow
def test_an_ordinary_user_runs_it_with_subordinate_ids() -> None:
    if (reason := no_podman()) or (reason := None if shutil.which("newuidmap") else "uidmap is not installed"):
        missing(reason)
    if os.getuid() != 0:
        missing("giving a user subordinate ids needs root")
    home = Path("/tmp", f"genprm-rootless-{os.getpid()}")
    ids = home / "subordinate"
    podman = ordinary_user("--pid", "--fork", "--kill-child", "--mount-proc", first=(
        f"touch /etc/subuid /etc/subgid; mount --bind {ids} /etc/subuid; mount --bind {ids} /etc/subgid"
    ))  # fmt: skip
    # Not its choice by itself with every version: `vfs` copies the whole image for each container.
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home), "STORAGE_DRIVER": "overlay",
    }  # fmt: skip
    run = [sys.executable, "-B", "-c", AS_USER]
    home.mkdir(mode=0o700)
    try:
        os.chown(home, NOBODY, NOBODY)
        ids.write_text("")
        refused = subprocess.run([*podman, *run], env=environment, cwd="/", capture_output=True, text=True, check=False)
        assert "Podman maps only 1 of the 60000 users that sessions need" in refused.stderr
        ids.write_text("nobody:100000:65536\n")
        copy_base([*podman, "podman"], environment)
        answer = subprocess.run([*podman, *run], env=environment, cwd="/", capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        stdout, isolation, note = json.loads(answer.stdout)
    finally:
        shutil.rmtree(home)
    assert (stdout, isolation) == ("1\n", "users")
    assert "(rootless)" in note
    assert ("Podman ignores" in note) != Path("/sys/fs/cgroup/cgroup.controllers").exists()


def test_too_few_subordinate_ids_are_named() -> None:
    host = {"security": {"rootless": True}, "cgroupVersion": "v2", "idMappings": {
        "uidmap": [{"size": 1}, {"size": 65536}], "gidmap": [{"size": 1}]}}  # fmt: skip
    with pytest.raises(SandboxError, match=r"maps only 1 of .*usermod --add-subuids"):
        _checked({"host": host, "version": {"Version": "5.0"}})
