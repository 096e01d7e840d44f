"""Guests in Podman: the Docker backend's container, started by `podman run`, without a daemon or root.

If an ordinary user runs it, the container's users are that user's subordinate ids (/etc/subuid).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import image
from .channels import ProcessChannel
from .container import ENVIRONMENT_INSIDE, PROCESSES, READABLE, TMPFS, cores, memory_mb
from .guest.seccomp import docker_profile
from .guest_config import guest_config
from .lane import LaneBroken
from .limits import Limits
from .remedies import MANY_USERS, look
from .results import SandboxError

_TMPFS = TMPFS.replace("nr_inodes=4k,", "")
"""Podman cannot limit the number of files; the container's memory bounds it."""
_USER_PROCESSES = 16384
_COMMAND_S = 60.0
_END_S = 10.0
"""Time limit for a container to end and be removed after its input has ended."""
_BUILD_S = 1800.0


class PodmanBackend:
    """Starts guests with `podman run`."""

    name = "podman"
    lanes: int | None = None

    def __init__(self, command: list[str], image_id: str, limits: Limits, note: str) -> None:
        self.note = note
        self._image = image_id
        self._command = command
        self._limits = limits
        # Podman takes the profile as a file.
        self._folder = tempfile.TemporaryDirectory(prefix="genprm-podman-")
        self._profile = Path(self._folder.name, "seccomp.json")
        self._profile.write_text(json.dumps(docker_profile()), encoding="utf-8")

    async def launch(self) -> ProcessChannel:
        """Starts a container, which ends with its input and removes itself."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.arguments(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C on the terminal is only for the host
            )
        except OSError as error:
            raise LaneBroken(f"podman does not start: {error}") from None
        return ProcessChannel(process, patience_s=_END_S)

    def arguments(self) -> list[str]:
        """The whole command line."""
        memory = f"{memory_mb(self._limits)}m"
        command = [*self._command, "run", "--interactive", "--rm", "--pull=never", "--log-driver=none"]
        command += [
            "--network=none",
            "--read-only",
            "--read-only-tmpfs=false",
            "--user=0:0",
            "--workdir=/",
            "--hostname=sandbox",
        ]
        command += ["--cap-drop=ALL", "--cap-add=SETUID,SETGID,KILL", "--security-opt=no-new-privileges"]
        command += [f"--security-opt=seccomp={self._profile}", "--ipc=none", f"--pids-limit={PROCESSES}"]
        command += [f"--memory={memory}", f"--memory-swap={memory}", f"--cpus={cores()}"]
        # Podman's own default may be more than it can set where it lacks CAP_SYS_RESOURCE.
        command += [f"--ulimit=nproc={_USER_PROCESSES}:{_USER_PROCESSES}"]
        command += ["--ulimit=core=0:0", "--ulimit=nofile=4096:4096", f"--tmpfs=/tmp:{_TMPFS}"]
        command += [f"--env={name}={value}" for name, value in ENVIRONMENT_INSIDE]
        config = guest_config(self._limits, proc="/proc", readable=READABLE)
        return [*command, self._image, "python3", "-s", "-P", "-m", "guest", config]

    async def close(self) -> None:
        """Removes the profile."""
        await asyncio.to_thread(self._folder.cleanup)


def open_backend(limits: Limits, runtime: str | None, note: str) -> PodmanBackend:
    """Finds Podman and ensures that the image exists.

    Args:
        limits: limits of every snippet.
        runtime: a container runtime on the PATH.
        note: why Podman is used.

    Raises:
        SandboxError: it is not installed or does not work, or the image cannot be built.
    """
    podman = shutil.which("podman")
    if podman is None:
        raise SandboxError("Podman is not installed: install the package `podman` of your distribution")
    command = [podman]
    version = _version(command)
    if runtime is not None:
        found = shutil.which(runtime)
        if found is None:
            raise SandboxError(f"there is no container runtime {runtime!r} on this machine's PATH")
        command.append(f"--runtime={found}")
    found_image = _ensure_image(command[:1])
    runs_on = f", runtime {runtime}" if runtime else ""
    return PodmanBackend(command, found_image, limits, f"{note}: {version}, image {found_image}{runs_on}")


def _version(command: list[str]) -> str:
    """Podman's version, if it can run the guest for this user.

    Raises:
        SandboxError: it does not work, or this is a root without all rights of root.
    """
    # Known before Podman is started, which would create its storage.
    if os.getuid() == 0 and not look().is_root:
        raise SandboxError(
            f"Podman needs all rights of root, or an ordinary user with {MANY_USERS} subordinate ids: this is root in "
            "a container or namespace that has taken some away"
        )
    return _checked(_run(command, "info", "--format=json"))


def _checked(info: str) -> str:
    """What `podman info` says of itself, in a line, if the guest can have a user for each session.

    Raises:
        SandboxError: an ordinary user has too few subordinate ids, or Podman answers something unknown.
    """
    try:
        found = json.loads(info)
        host, version = found["host"], found["version"]["Version"]
        rootless, ids, groups = host["security"]["rootless"], host["idMappings"], host["cgroupVersion"]
        sizes = {kind: sum(int(span["size"]) for span in ids[kind] or []) for kind in ("uidmap", "gidmap")}
    except (ValueError, KeyError, TypeError) as error:
        raise SandboxError(f"`podman info` says something unknown ({error!r}): {info:.200}") from None
    if not rootless:
        return f"Podman {version} (root)"
    for mapped in sizes.values():
        if mapped < MANY_USERS:
            raise SandboxError(
                f"Podman maps only {mapped} of the {MANY_USERS} users that sessions need: install the package "
                "`uidmap`, run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER` as root, then "
                "`podman system migrate`"
            )
    note = f"Podman {version} (rootless)"
    if groups == "v1":
        note += (
            "; with control groups of version 1, Podman ignores the guest's limits on memory, processors and processes"
        )
    return note


def has_image() -> bool:
    """Whether Podman has the image for this version of the guest.

    Raises:
        SandboxError: Podman does not work here.
    """
    _version(["podman"])
    return bool(_run(["podman"], "images", "--quiet", _filter()))


def _filter() -> str:
    return f"--filter=label={image.CONTENT_LABEL}={image.content()}"


def _ensure_image(command: list[str]) -> str:
    """The image for this version of the guest, built if missing."""
    label = f"{image.CONTENT_LABEL}={image.content()}"
    if found := _run(command, "images", "--quiet", "--no-trunc", _filter()).split():
        return found[0]
    named = os.environ.get(image.BASE_VARIABLE)
    bases = (named,) if named else (image.DEFAULT_BASE, image.LOCAL_BASE)
    base = next((one for one in bases if not _code(command, "image", "exists", one)), bases[0])
    with tempfile.TemporaryDirectory() as folder:
        image.unpack_context(Path(folder))
        build = ["build", "--quiet", f"--file={folder}/Dockerfile.sandbox", f"--build-arg=BASE={base}"]
        try:
            _run(command, *build, f"--label={label}", f"--tag={image.REPOSITORY}", folder, seconds=_BUILD_S)
        except SandboxError as error:
            raise SandboxError(
                f"Podman cannot build the sandbox image from {base!r}: {error}. Copy it from Docker (`docker save "
                f"IMAGE | podman load`), run `ENGINE=podman scripts/build-sandbox-base`, or set {image.BASE_VARIABLE}"
            ) from None
    return _run(command, "images", "--quiet", "--no-trunc", _filter()).split()[0]


def _run(command: list[str], *arguments: str, seconds: float = _COMMAND_S) -> str:
    try:
        command = [*command, *arguments]
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"Podman does not answer: {error}") from None
    if answer.returncode:
        raise SandboxError(f"Podman fails: {answer.stderr.strip()[-500:] or answer.returncode}")
    return answer.stdout.strip()


def _code(command: list[str], *arguments: str) -> int:
    null = subprocess.DEVNULL
    return subprocess.run([*command, *arguments], stdin=null, stdout=null, stderr=null, check=False).returncode
