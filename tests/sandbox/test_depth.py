"""Defence in depth: the confinement of the guest itself, before any session."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from genprm.sandbox import Sandbox, SandboxError, open_sandbox
from tests.conftest import missing

from .conftest import opened
from .test_failures import ancestors, guests, lane_of, supervisor_of


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_the_guest_is_confined_from_its_start(backend: str) -> None:
    """Seen from the host: every process of a guest has a filter, and no capability beyond the supervisor's three."""
    box = await opened(backend)
    try:
        async with box.session() as session:
            await session.run("x = 1")
            pids = mine(box)
            assert len(pids) >= 4
            allowed = sum(1 << bit for bit in (5, 6, 7))  # KILL, SETGID, SETUID
            scores = []
            for pid in pids:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    status = status_of(pid)
                    assert status["Seccomp"] == "2", pid
                    assert status["NoNewPrivs"] == "1", pid
                    for name in ("CapEff", "CapPrm", "CapInh"):
                        assert int(status[name], 16) & ~allowed == 0, (pid, name)
                    assert int(status["CapBnd"], 16) & ~(allowed if backend == "docker" else 0) == 0, pid
                    if status["Uid"].split()[0] != "0":
                        assert int(status["CapEff"], 16) == 0
                    scores.append(score_of(pid))
            assert sorted(scores)[-3:] == [1000] * 3, "zygote and sessions go first"
    finally:
        await box.close()


def mine(box: Sandbox) -> list[int]:
    """Processes of the box's guest: the descendants of its supervisor, which all have its command line."""
    supervisor = supervisor_of(lane_of(box))
    return [supervisor, *(pid for pid in guests() if supervisor in ancestors(pid))]


@pytest.mark.docker
async def test_what_the_engine_warns_of_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import docker.api

    honest = docker.api.APIClient.create_container

    def create(self: docker.api.APIClient, *arguments: object, **options: object) -> dict[str, object]:
        created = honest(self, *arguments, **options)
        return {**created, "Warnings": ["Your kernel does not support swap limit capabilities."]}

    monkeypatch.setattr(docker.api.APIClient, "create_container", create)
    try:
        box = await open_sandbox("docker", lanes=1).start()
    except SandboxError as error:
        missing(str(error))
        return
    try:
        assert "the engine warns: Your kernel does not support swap limit capabilities." in box.note
    finally:
        await box.close()
