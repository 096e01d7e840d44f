"""The cost of a snippet: this sandbox here and as a service, two common ways with Docker, and plain exec as the limit.

Every row runs the same snippets. Ours opens a fresh session for each; `docker-exec` starts a Python in a running
container through docker-py; `docker-run` starts a container for each; `in-process` is a first call in a fork of an
interpreter that has imported and warmed sympy as our zygote has. With the defaults it takes about four minutes.

usage: python benchmarks/sandbox.py [--seconds 4] [--save]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Before this folder, whose sandbox.py would hide the package.
sys.path.insert(0, str(Path(__file__).parents[1]))

import docker
from docker.models.containers import Container

from genprm.sandbox import Limits, SandboxError, open_sandbox
from genprm.sandbox.guest import warmup
from genprm.sandbox.image import ensure_image
from genprm.sandbox.measure import SNIPPETS, Figures, measure, measure_sessions

RESULTS = Path(__file__).parent / "results"
LIMITS = Limits(wall_s=30.0, cpu_s=30.0)
SLOW_SECONDS = 1.5
"""Time for a snippet in the rows that need hundreds of milliseconds for each."""
OPEN_SESSIONS = 256
Row = dict[str, Figures]


async def ours(backend: str, lanes: int, seconds: float) -> Row:
    """One backend with so many lanes, as many callers as lanes."""
    async with open_sandbox(backend, limits=LIMITS, lanes=lanes) as box:
        await box.grow()
        await box.stats()  # answers when a guest has loaded all that it loads
        await measure_sessions(box, SNIPPETS["trivial"], lanes, 1.0)
        return {name: await measure_sessions(box, code, lanes, seconds) for name, code in SNIPPETS.items()}


@contextlib.contextmanager
def running_service(lanes: int) -> Iterator[str]:
    """A sandbox service over bubblewrap in a process of its own, on a loopback port; its address."""
    command = [sys.executable, "-m", "genprm.cli.main", "sandbox", "serve", "--port", "0", "--sandbox", "bubblewrap"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    service = subprocess.Popen([*command, "--lanes", str(lanes)], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert service.stderr is not None
        yield service.stderr.readline().split()[-1]
    finally:
        service.terminate()
        service.wait()


@contextlib.contextmanager
def running_container(client: docker.DockerClient, image: str) -> Iterator[Container]:
    """An idle container to execute in."""
    container = client.containers.run(image, ["sleep", "600"], detach=True, network_mode="none")
    try:
        yield container
    finally:
        container.remove(force=True)


async def docker_exec(client: docker.DockerClient, image: str, seconds: float) -> Row:
    """`docker exec python -c` through docker-py."""
    with running_container(client, image) as container:

        def once(code: str) -> None:
            code_out = container.exec_run(["python3", "-c", code])
            assert code_out.exit_code == 0, code_out.output

        return {
            name: await measure(lambda code=code: asyncio.to_thread(once, code), 1, seconds)
            for name, code in SNIPPETS.items()
        }


async def docker_run(image: str, seconds: float) -> Row:
    """`docker run --rm` with the hardening that the command line has."""
    options = ["--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
               "--pids-limit=64", "--memory=1g"]  # fmt: skip

    def once(code: str) -> None:
        subprocess.run(["docker", "run", *options, image, "python3", "-c", code], check=True, capture_output=True)

    return {
        name: await measure(lambda code=code: asyncio.to_thread(once, code), 1, seconds)
        for name, code in SNIPPETS.items()
    }


def in_process(seconds: float) -> Row:
    """A first call of each snippet in a warm interpreter, timed inside a fork so that it stays a first call."""
    namespace: dict[str, object] = {}
    for item, _ in warmup.steps() + warmup.scientific_steps():
        warmup.perform(item, namespace)
    row: Row = {}
    for name, code in SNIPPETS.items():
        took: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(took) < 5:
            took.append(first_call(code))
        took.sort()
        row[name] = Figures(
            took[len(took) // 2] * 1000, took[int(len(took) * 0.99)] * 1000, len(took) / sum(took), len(took)
        )
    return row


def first_call(code: str) -> float:
    """Seconds that exec takes in a fresh copy of this process."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.redirect_stdout(io.StringIO()):
            started = time.perf_counter()
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            took = time.perf_counter() - started
        os.write(writable, repr(took).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as file:
        answer = float(file.read())
    os.waitpid(pid, 0)
    return answer


async def extras(backend: str) -> dict[str, float]:
    """Start, a session's step beside a fresh snippet, and what an open session costs."""
    started = time.perf_counter()
    async with open_sandbox(backend, limits=LIMITS, lanes=1) as box:
        opened_s = time.perf_counter() - started
        launched = time.perf_counter()
        launch_s = 0.0
        async with open_sandbox(backend, limits=LIMITS, lanes=1):
            launch_s = time.perf_counter() - launched
        await asyncio.sleep(4)
        fresh = await measure_sessions(box, SNIPPETS["trivial"], 1, 2.0)
        async with box.session() as session:

            async def step() -> None:
                if not (await session.run(SNIPPETS["trivial"])).ok:
                    raise SandboxError("a step failed")

            await step()
            steps = await measure(step, 1, 2.0)
        before = (await box.stats())[0]
        memory_before = guest_memory_kb(box.backend)
        sessions = [box.session() for _ in range(OPEN_SESSIONS)]
        for number, one in enumerate(sessions):
            await one.run(f"import sympy\nx = sympy.Symbol('x') + {number}")
        wrong = 0
        for number, one in enumerate(sessions):
            wrong += (await one.run("print(x - sympy.Symbol('x'))")).stdout != f"{number}\n"
        after = (await box.stats())[0]
        memory_after = guest_memory_kb(box.backend)
        await asyncio.gather(*(one.close() for one in sessions))
        return {
            "open_s": round(opened_s, 3),
            "second_open_s": round(launch_s, 3),
            "fresh_p50_ms": round(fresh.p50_ms, 2),
            "step_p50_ms": round(steps.p50_ms, 2),
            "open_sessions": after["sessions"],
            "wrong_answers": wrong,
            "processes_each": round((after["processes"] - before["processes"]) / OPEN_SESSIONS, 2),
            "memory_each_kb": round((memory_after - memory_before) / OPEN_SESSIONS),
        }


def guest_memory_kb(backend: str) -> int:
    """Proportional memory of all guest processes, seen from the host: shared pages count once."""
    total = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                command = Path(entry.path, "cmdline").read_bytes()
                if b"\0-m\0guest\0" in command:
                    for line in Path(entry.path, "smaps_rollup").read_text(encoding="ascii").splitlines():
                        if line.startswith("Pss:"):
                            total += int(line.split()[1])
    return total


def container_ready_s(client: docker.DockerClient) -> float:
    """Seconds from a container's start, by the engine's clock, to its first word."""
    from genprm.sandbox.docker import open_backend
    from genprm.sandbox.lane import Lane

    async def once() -> float:
        backend = await asyncio.to_thread(open_backend, LIMITS, None)
        channel = await backend.launch()
        lane = await Lane.start(channel, LIMITS)
        ready = time.time()
        begun = client.api.inspect_container(channel.identity)["State"]["StartedAt"]
        await lane.close()
        await backend.close()
        seconds, _, fraction = begun.rstrip("Z").partition(".")
        stamp = time.mktime(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) - time.timezone
        return ready - stamp - float("0." + (fraction or "0"))

    return round(sorted(asyncio.run(once()) for _ in range(3))[1], 3)


def main() -> None:
    """Measure, print a table, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each snippet in the fast rows")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/sandbox.json")
    arguments = parser.parse_args()
    seconds: float = arguments.seconds
    client = docker.from_env()
    image = ensure_image(client)
    rows: dict[str, Row] = {"in-process": in_process(seconds)}
    for backend in ("docker", "bubblewrap"):
        for lanes in (1, 2):
            rows[f"{backend}-{lanes}"] = asyncio.run(ours(backend, lanes, seconds))
    for lanes in (1, 2):
        with running_service(lanes) as address:
            rows[f"remote-{lanes}"] = asyncio.run(ours(address, lanes, seconds))
    rows["docker-exec"] = asyncio.run(docker_exec(client, image, SLOW_SECONDS))
    rows["docker-run"] = asyncio.run(docker_run(image, SLOW_SECONDS))
    more = {backend: asyncio.run(extras(backend)) for backend in ("docker", "bubblewrap")}
    more["docker"]["ready_after_container_start_s"] = container_ready_s(client)
    print(table(rows))
    for lanes in (1, 2):
        near, far = rows[f"bubblewrap-{lanes}"]["trivial"], rows[f"remote-{lanes}"]["trivial"]
        print(f"remote-{lanes} beside bubblewrap-{lanes}, trivial: {far.p50_ms - near.p50_ms:+.2f} ms p50, "
              f"{far.per_s / near.per_s:.0%} of the rate")  # fmt: skip
    for backend, figures in more.items():
        print(f"{backend}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}")
    report: dict[str, object] = {
        row: {
            name: {"p50_ms": round(one.p50_ms, 2), "p99_ms": round(one.p99_ms, 2), "per_s": round(one.per_s, 1)}
            for name, one in figures.items()
        }
        for row, figures in rows.items()
    }
    report["more"] = more
    text = json.dumps(report)
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "sandbox.json").write_text(text + "\n", encoding="utf-8")
        (RESULTS / "sandbox.md").write_text(table(rows) + "\n", encoding="utf-8")
    print(text)


def table(rows: dict[str, Row]) -> str:
    """p50 / p99 in milliseconds and executions a second, in Markdown."""
    lines = ["| | " + " | ".join(SNIPPETS) + " |", "|---" * (len(SNIPPETS) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{one.p50_ms:.1f} / {one.p99_ms:.0f} ms, {one.per_s:.0f}/s" for one in row.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
