"""Failures during a run: every call gives the right result or SandboxError, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from genprm.sandbox import Limits, Sandbox, SandboxError, Status, open_sandbox
from genprm.sandbox.lane import Lane

from .conftest import ancestors, end_the_host, guests, opened

pytestmark = pytest.mark.slow

LIMITS = Limits(wall_s=5.0, memory_mb=256)


def supervisor_of(lane: Lane) -> int:
    """The supervisor of a lane, as the host sees it."""
    channel = lane._channel  # pyright: ignore[reportPrivateUsage]
    if hasattr(channel, "pid"):
        return next(pid for pid in sorted(guests()) if channel.pid in ancestors(pid) and not is_bwrap(pid))
    import docker

    client = docker.from_env()
    with contextlib.closing(client):
        init = client.api.inspect_container(channel.identity)["State"]["Pid"]
    return next(pid for pid in sorted(guests()) if ancestors(pid)[:1] == [init])


def is_bwrap(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").readlink().name == "bwrap"


def kill_guest(lane: Lane) -> None:
    """Kill the container, or bwrap, and wait until its supervisor is gone too."""
    channel = lane._channel  # pyright: ignore[reportPrivateUsage]
    supervisor = supervisor_of(lane)
    if hasattr(channel, "pid"):
        os.kill(channel.pid, signal.SIGKILL)
    else:
        import docker

        client = docker.from_env()
        with contextlib.closing(client):
            client.api.kill(channel.identity)
    end = time.monotonic() + 10
    while supervisor in guests():  # a dead one that has not been reaped has no command line
        assert time.monotonic() < end
        time.sleep(0.001)


def lane_of(box: Sandbox) -> Lane:
    return box._lanes[0]  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("how", ["guest", "supervisor"])
async def test_a_killed_guest_costs_a_retry_and_no_state(backend: str, how: str) -> None:
    box = await opened(backend, LIMITS)
    try:
        async with box.session() as session:
            await session.run("x = [1]")
            await session.run("x.append(2)\n1 / 0")
            await session.run("x.append(3)\nimport os; os._exit(0)")
            lane = lane_of(box)
            if how == "guest":
                await asyncio.to_thread(kill_guest, lane)
            else:
                os.kill(supervisor_of(lane), signal.SIGKILL)
            result = await session.run("x.append(4)\nprint(x)")
            assert (result.status, result.stdout) == (Status.OK, "[1, 2, 4]\n")
            assert lane_of(box) is not lane
    finally:
        await box.close()


async def test_a_guest_killed_in_the_middle_of_snippets(backend: str) -> None:
    box = await opened(backend, LIMITS)
    try:

        async def chain(number: int) -> str:
            async with box.session() as session:
                try:
                    await session.run(f"import time\nx = {number}\ntime.sleep(0.1)")
                    return (await session.run("time.sleep(0.1)\nprint(x)")).stdout
                except SandboxError:
                    return "sandbox error"

        chains = [asyncio.create_task(chain(number)) for number in range(8)]
        await asyncio.sleep(0.3)
        os.kill(supervisor_of(lane_of(box)), signal.SIGKILL)
        results = await asyncio.gather(*chains)
        assert all(result in (f"{number}\n", "sandbox error") for number, result in enumerate(results))
        async with box.session() as session:
            assert (await session.run("print('on')")).stdout == "on\n"
    finally:
        await box.close()


async def test_a_guest_that_dies_twice_is_an_error_and_not_a_result(backend: str) -> None:
    box = await opened(backend, LIMITS)
    try:
        async with box.session() as session:
            await session.run("x = 1")
            task = asyncio.create_task(session.run("import time; time.sleep(4)"))
            killed: set[int] = set()
            end = time.monotonic() + 60
            while not task.done() and time.monotonic() < end:
                for lane in box._lanes:  # pyright: ignore[reportPrivateUsage]
                    if id(lane) not in killed and lane.load:
                        killed.add(id(lane))
                        await asyncio.sleep(0.2)
                        await asyncio.to_thread(kill_guest, lane)
                await asyncio.sleep(0.05)
            with pytest.raises(SandboxError, match="broke twice"):
                await task
        async with box.session() as session:
            assert (await session.run("print('on')")).stdout == "on\n"
    finally:
        await box.close()


@pytest.mark.parametrize(
    "frame",
    [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x05hello", b'\0\0\0\x0b{"id":99999}', b'\0\0\0\x08{"id":-1}', b""],
    ids=["too-long", "no-object", "no-json", "another-id", "no-id", "end-of-stream"],
)
async def test_a_malformed_frame_condemns_the_lane(backend: str, frame: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor's bytes are replaced on their way, for one reply."""
    box = await opened(backend, LIMITS)
    try:
        async with box.session() as session:
            await session.run("x = 1")
            lane = lane_of(box)
            channel = lane._channel  # pyright: ignore[reportPrivateUsage]
            pending = bytearray(frame)

            async def read(size: int) -> bytes:
                from genprm.sandbox.lane import LaneBroken

                if len(pending) < size:
                    raise LaneBroken("the guest has ended")
                part = bytes(pending[:size])
                del pending[:size]
                return part

            monkeypatch.setattr(channel, "read", read)
            result = await session.run("x += 1\nprint(x)")
            assert (result.status, result.stdout) == (Status.OK, "2\n")
            assert lane.broken
            assert lane_of(box) is not lane
    finally:
        await box.close()


async def test_state_that_cannot_be_made_again_is_an_error(backend: str) -> None:
    box = await opened(backend, LIMITS)
    try:
        async with box.session() as session:
            # Succeeds the first time and fails the second: the process id differs.
            await session.run("import time\nassert time.monotonic() < %f" % (time.monotonic() + 3))
            await asyncio.sleep(3)
            await asyncio.to_thread(kill_guest, lane_of(box))
            with pytest.raises(SandboxError, match="could not be rebuilt"):
                await session.run("print(1)")
    finally:
        await box.close()


async def test_state_given_up_for_memory_is_made_again(backend: str) -> None:
    box = await opened(backend, LIMITS)
    try:
        sessions = [box.session() for _ in range(8)]
        for number, session in enumerate(sessions):
            assert (await session.run(f"x = bytearray(b'1') * (200 << 20)\nn = {number}")).ok
        held = (await box.stats())[0]
        assert held["held_kb"] <= 1024 << 10
        assert held["sessions"] < 8
        for number, session in enumerate(sessions):
            result = await session.run("print(n, len(x))")
            assert result.stdout == f"{number} {200 << 20}\n"
            await session.close()
    finally:
        await box.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_guests_end_when_the_host_process_dies(backend: str, number: signal.Signals) -> None:
    end_the_host(backend, number)


@pytest.mark.docker
async def test_containers_of_dead_owners_are_swept_and_others_are_left() -> None:
    import docker

    from genprm.sandbox.docker import OWNER_LABEL, owner, sweep

    box = await opened("docker", LIMITS)
    client = docker.from_env()
    try:
        image = box._chosen.image  # type: ignore[attr-defined]  # pyright: ignore
        mine = owner()
        pid, start, *place = mine.split(" ")
        labels = {
            "dead": f"{pid} {int(start) - 1} {' '.join(place)}",
            "alive": mine,
            "elsewhere": f"{pid} 1 another-boot {place[1]}",
        }
        made = {name: client.containers.create(image, labels={OWNER_LABEL: label}) for name, label in labels.items()}
        try:
            sweep(client)
            left = {one.id for one in client.containers.list(all=True, filters={"label": OWNER_LABEL})}
            assert made["dead"].id not in left
            assert {made["alive"].id, made["elsewhere"].id} <= left
        finally:
            for container in made.values():
                with contextlib.suppress(docker.errors.NotFound):
                    container.remove(force=True)
        async with box.session() as session:
            assert (await session.run("print(1)")).ok
    finally:
        client.close()
        await box.close()


@pytest.mark.docker
async def test_the_container_is_hardened() -> None:
    import docker

    box = await opened("docker", LIMITS)
    client = docker.from_env()
    try:
        host = client.api.inspect_container(lane_of(box)._channel.identity)["HostConfig"]  # pyright: ignore
    finally:
        client.close()
        await box.close()
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert sorted(capability.removeprefix("CAP_") for capability in host["CapAdd"]) == ["KILL", "SETGID", "SETUID"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert any(option.startswith("seccomp={") for option in host["SecurityOpt"])
    assert host["Privileged"] is False
    assert not host["Binds"]
    assert host["IpcMode"] == "none"
    assert host["Init"] is True
    assert host["LogConfig"]["Type"] == "none"
    assert host["PidsLimit"] > 0
    assert host["NanoCpus"] > 0
    assert host["Memory"] == host["MemorySwap"] > 0
    assert "nr_inodes" in host["Tmpfs"]["/tmp"]


def stop_engine() -> tuple[int, list[bytes]]:
    """Stop dockerd; how it was started."""
    pid = int(Path("/var/run/docker.pid").read_text())
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.1)
    return pid, command


def start_engine(stopped: int, command: list[bytes]) -> None:
    """Start dockerd again as it was."""
    assert not Path(f"/proc/{stopped}").exists()
    # In its own session, because it outlives these tests.
    null = subprocess.DEVNULL
    subprocess.run(["setsid", "--fork", *command], stdin=null, stdout=null, stderr=null, check=True)


@pytest.mark.docker
@pytest.mark.skipif(os.environ.get("GENPRM_TEST_DOCKER_RESTART") != "1", reason="restarts the machine's Docker engine")
@pytest.mark.timeout(300)
async def test_a_restarted_engine_costs_a_retry() -> None:
    box = await opened("docker", LIMITS)
    try:
        async with box.session() as session:
            await session.run("x = 1")
            engine, command = await asyncio.to_thread(stop_engine)
            running = asyncio.create_task(session.run("x += 1\nprint(x)"))
            await asyncio.sleep(1)
            await asyncio.to_thread(start_engine, engine, command)
            result = await running
            assert (result.status, result.stdout) == (Status.OK, "2\n")
    finally:
        await box.close()
    async with open_sandbox("docker", limits=LIMITS, lanes=1) as again, again.session() as session:
        assert (await session.run("print(1)")).ok
