"""Nothing leaks: a short soak, many open sessions, lanes started and stopped."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from genprm.sandbox import Sandbox, binds
from genprm.sandbox import box as box_module
from genprm.sandbox.attacks import ATTACK_LIMITS
from genprm.sandbox.soak import soak
from tests.conftest import ROOT, missing

from .conftest import no_bubblewrap, opened

pytestmark = pytest.mark.slow


KEPT_CONNECTIONS = 10
"""To the engine: as many its client keeps open at most, once guests happened to be replaced at the same moment."""


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_soak_answers_rightly_and_leaks_nothing(backend: str) -> None:
    box = await opened(backend, ATTACK_LIMITS, lanes=2)
    try:
        await box.grow()
        await asyncio.sleep(3)  # the zygotes finish their warm-up, which grows them
        await soak(box, 100, seed=0)  # guests that an attack wore out are replaced over connections that stay open
        report = await soak(box, 600, sessions=4, seed=1, attacks_share=0.2)
    finally:
        await box.close()
    assert not report.wrong
    assert not report.errors
    assert report.guests_lost == 0
    assert report.snippets >= 600
    assert report.attacks > 80
    before, after = report.before, report.after
    assert after.guest_strays == after.guest_zombies == after.guest_scratch_entries == 0
    assert after.guest_processes <= before.guest_processes
    assert after.guest_descriptors <= before.guest_descriptors
    assert after.host_descriptors <= before.host_descriptors + KEPT_CONNECTIONS
    assert after.supervisors_kb <= before.supervisors_kb + 8192
    assert after.host_resident_kb <= before.host_resident_kb + 65536


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_256_sessions_are_open_at_once(backend: str) -> None:
    # On one lane: more descriptors than `select` knows.
    box = await opened(backend, lanes=1)
    try:
        sessions = [box.session() for _ in range(256)]
        await asyncio.gather(*(session.run(f"x = {number}") for number, session in enumerate(sessions)))
        results = await asyncio.gather(*(session.run("print(x)") for session in sessions))
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(256)]
        (lane,) = await box.stats()
        assert lane["sessions"] == 256
        await asyncio.gather(*(session.close() for session in sessions))
        (lane,) = await box.stats()
        assert lane["sessions"] == 0
    finally:
        await box.close()


async def test_lanes_come_when_needed_and_go_when_idle(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_module, "_HOUSEKEEPING_S", 0.2)
    box = await opened(backend, lanes=2)
    try:
        assert len(await box.stats()) == 1

        async def chain() -> None:
            async with box.session() as session:
                assert (await session.run("import time; time.sleep(0.5)")).ok

        while len(await box.stats()) < 2:
            await asyncio.gather(*(chain() for _ in range(4)))
        monkeypatch.setattr(box_module, "_IDLE_S", 0.0)
        await until(box, 1)
    finally:
        await box.close()


async def test_a_worn_guest_is_replaced(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_module, "RUNS_BEFORE_RENEWAL", 3)
    box = await opened(backend)
    try:
        seen: set[int] = set()
        for _ in range(5):
            async with box.session() as session:
                assert (await session.run("print(1)")).ok
            seen |= {id(lane) for lane in box._lanes}  # pyright: ignore[reportPrivateUsage]
        assert len(seen) > 1
    finally:
        await box.close()


@pytest.mark.bubblewrap
async def test_a_guest_with_few_users_left_is_replaced_and_keeps_its_sessions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if reason := no_bubblewrap():
        missing(reason)
    shutil.copytree(ROOT / "sandbox" / "guest", tmp_path / "guest")
    worker = tmp_path / "guest" / "worker.py"
    code = worker.read_text(encoding="utf-8")
    worker.write_text(code.replace("_FEW_USERS = 2_000", "_FEW_USERS = 1 << 17"), encoding="utf-8")
    assert worker.read_text(encoding="utf-8") != code
    monkeypatch.setattr(binds, "__file__", str(tmp_path / "binds.py"))
    binds.find_layout.cache_clear()
    box = await opened("bubblewrap")
    try:
        async with box.session() as first, box.session() as second:
            assert (await first.run("x = 1")).ok
            assert (await second.run("x = 2")).ok
            assert box.guests_started == 2
            assert [(await one.run("print(x)")).stdout for one in (first, second)] == ["1\n", "2\n"]
            assert box.guests_started == 2
    finally:
        await box.close()
        binds.find_layout.cache_clear()


async def until(box: Sandbox, lanes: int) -> None:
    async with asyncio.timeout(30):
        while len(await box.stats()) != lanes:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
