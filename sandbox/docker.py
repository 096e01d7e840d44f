"""Guests in hardened Docker containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.utils
import requests.exceptions
from docker.context import ContextAPI
from docker.types import LogConfig, Ulimit

from .channels import COMPLAINT_BYTES, StreamChannel
from .container import ENVIRONMENT_INSIDE, PROCESSES, READABLE, TMPFS, cores, memory_mb
from .guest.seccomp import docker_profile
from .guest_config import guest_config
from .image import ensure_image
from .lane import LaneBroken
from .limits import Limits
from .results import SandboxError

OWNER_LABEL = "genprm.sandbox.owner"
_ENGINE_BACK_S = 60.0
"""How long to wait for an engine that is being restarted."""
_MULTIPLEX = struct.Struct(">BxxxI")


class DockerBackend:
    """Starts guests as containers of one engine."""

    name = "docker"
    lanes: int | None = None

    def __init__(self, client: docker.DockerClient, image: str, limits: Limits, runtime: str | None, note: str) -> None:
        self.note = note
        self.image = image
        self._client = client
        self._limits = limits
        self._runtime = runtime

    async def launch(self) -> DockerChannel:
        """Starts a container and attaches to it; waits for an engine that is restarting."""
        end = time.monotonic() + _ENGINE_BACK_S
        while True:
            try:
                identity, link = await asyncio.to_thread(self._start)
                break
            except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
                if time.monotonic() > end or not _engine_is_away(error):
                    raise LaneBroken(f"the engine cannot start a container: {error}") from None
            await asyncio.sleep(0.5)
        reader, writer = await asyncio.open_connection(sock=link)
        return DockerChannel(self._client, identity, reader, writer)

    async def close(self) -> None:
        """Closes the connection to the engine."""
        await asyncio.to_thread(self._client.close)

    def _start(self) -> tuple[str, socket.socket]:
        _knock()
        api = self._client.api
        memory = memory_mb(self._limits) << 20
        host = api.create_host_config(
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            cap_add=["SETUID", "SETGID", "KILL"],
            security_opt=["no-new-privileges", f"seccomp={json.dumps(docker_profile())}"],
            pids_limit=PROCESSES,
            mem_limit=memory,
            memswap_limit=memory,
            nano_cpus=cores() * 10**9,
            ipc_mode="none",
            init=True,
            oom_score_adj=500,
            tmpfs={"/tmp": TMPFS},
            ulimits=[Ulimit(name="core", soft=0, hard=0), Ulimit(name="nofile", soft=4096, hard=4096)],
            log_config=LogConfig(type="none"),
            auto_remove=True,
            runtime=self._runtime,
        )
        config = guest_config(self._limits, proc="/proc", readable=READABLE)
        created = api.create_container(
            self.image,
            ["python3", "-s", "-P", "-m", "guest", config],
            user="0:0",
            hostname="sandbox",
            working_dir="/",
            stdin_open=True,  # and StdinOnce: the input ends when this process does, however it ends
            environment=dict(ENVIRONMENT_INSIDE),
            labels={OWNER_LABEL: owner()},
            host_config=host,
        )
        identity: str = created["Id"]
        for warning in created.get("Warnings") or ():  # an unsupported limit, for example
            if warning not in self.note:
                self.note += f"; the engine warns: {warning}"
        try:
            # Attached before the start, so that no output is missed.
            attached = api.attach_socket(identity, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            link = socket.socket(fileno=os.dup(attached.fileno()))
            attached._sock.close()  # the file object alone would leave the socket open
            attached.close()
            api.start(identity)
        except BaseException:
            _remove(self._client, identity)
            raise
        return identity, link


class DockerChannel(StreamChannel):
    """A container's standard streams over the engine's attach connection, which multiplexes them."""

    def __init__(
        self, client: docker.DockerClient, identity: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(reader, writer)
        self.identity = identity
        self._client = client
        self._pending = bytearray()
        self._log = b""

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes of the standard output; the standard error goes to the log."""
        while len(self._pending) < size:
            stream, length = _MULTIPLEX.unpack(await super().read(_MULTIPLEX.size))
            data = await super().read(length)
            if stream == 1:
                self._pending += data
            else:
                self._log = (self._log + data)[-COMPLAINT_BYTES:]
        wanted = bytes(self._pending[:size])
        del self._pending[:size]
        return wanted

    async def close(self) -> None:
        """Kill and remove the container."""
        self._writer.close()
        await asyncio.to_thread(_remove, self._client, self.identity)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def complaint(self) -> str:
        """The end of the guest's log."""
        return self._log.decode("utf-8", "replace").strip()


def open_backend(limits: Limits, runtime: str | None) -> DockerBackend:
    """Connects to the engine, removes containers of dead processes, and builds the image if needed.

    Raises:
        SandboxError: no engine answers, the runtime is unknown, or the image cannot be built.
    """
    client = connect()
    try:
        runtimes = sorted(client.info().get("Runtimes", {}))
        if runtime is not None and runtime not in runtimes:
            raise SandboxError(f"the Docker engine has no runtime {runtime!r}, only {', '.join(runtimes)}")
        sweep(client)
        image = ensure_image(client)
        version = client.version().get("Version", "?")
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        client.close()
        raise SandboxError(f"the Docker engine does not work ({_reason(error)})") from None
    except BaseException:
        client.close()
        raise
    note = f"Docker engine {version}, image {image}" + (f", runtime {runtime}" if runtime else "")
    return DockerBackend(client, image, limits, runtime, note)


def connect() -> docker.DockerClient:
    """A client of the environment's Docker engine.

    Raises:
        SandboxError: none answers.
    """
    where = _host()
    try:
        _knock()
        if where.startswith(("https", "ssh", "npipe")) or os.environ.get("DOCKER_TLS_VERIFY"):
            raise SandboxError("the sandbox speaks to an engine over a Unix socket or plain TCP only, not TLS or SSH")
        return docker.DockerClient(where, version="auto", timeout=120)
    except PermissionError:
        raise SandboxError(
            f"this user may not use the Docker engine at {where} (permission denied): join the group that owns it "
            f"(`sudo usermod -aG {_group(where)} $USER` and a new login), or use rootless Docker"
        ) from None
    except (docker.errors.DockerException, OSError) as error:
        todo = "start one, or set DOCKER_HOST"
        raise SandboxError(f"no Docker engine answers at {where} ({_reason(error)}); {todo}") from None


def _host() -> str:
    """Where the engine is: DOCKER_HOST, or else the context of the `docker` command (DOCKER_CONTEXT, `context use`)."""
    if named := os.environ.get("DOCKER_HOST"):
        return _plain(named)
    wanted = os.environ.get("DOCKER_CONTEXT", "")
    try:
        chosen: Any = ContextAPI.get_context(wanted or None)
    except (docker.errors.DockerException, OSError, ValueError, KeyError) as error:
        raise SandboxError(f"the Docker context {wanted or 'in use'!r} cannot be read: {error}") from None
    if chosen is None:
        raise SandboxError(f"there is no Docker context {wanted!r}: `docker context ls` lists them")
    return _plain(chosen.Host)


def _plain(host: str | None) -> str:
    return str(docker.utils.parse_host(host)).removeprefix("http+")


def _group(where: str) -> str:
    """The group that owns an engine's socket."""
    try:
        return Path(where.partition("://")[2]).group()
    except (OSError, KeyError):
        return "docker"


def _knock() -> None:
    """Raise OSError if no engine listens. The SDK would leave its socket open when it finds that out."""
    scheme, _, path = _host().partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(10)
            probe.connect("/" + path.lstrip("/"))


def owner() -> str:
    """Identifies this process: its id, start time, boot id and process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{os.getpid()} {_start_time(os.getpid())} {boot} {os.readlink('/proc/self/ns/pid')}"


def sweep(client: docker.DockerClient) -> int:
    """Removes containers of owners that died on this machine; returns how many there were."""
    removed = 0
    here = owner().split(" ")[2:]
    for container in client.api.containers(all=True, filters={"label": OWNER_LABEL}):
        pid, start, *place = container["Labels"][OWNER_LABEL].split(" ")
        if place == here and _start_time(int(pid)) != start:
            _remove(client, container["Id"])
            removed += 1
    return removed


def _start_time(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def _remove(client: docker.DockerClient, identity: str) -> None:
    # Already gone, being removed, or the engine is down: auto-removal or the next sweep handles it.
    with contextlib.suppress(docker.errors.DockerException, requests.exceptions.RequestException, OSError):
        _knock()
        client.api.remove_container(identity, force=True, v=True)


def _engine_is_away(error: Exception) -> bool:
    return not isinstance(error, docker.errors.APIError) or error.is_server_error()


def _reason(error: Exception) -> str:
    while error.__context__ is not None and isinstance(error.__context__, Exception):
        error = error.__context__
    return str(error) or type(error).__name__
