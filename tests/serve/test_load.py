"""Many clients at once, hostile ones among them, and the calls of a long training. In full: benchmarks/service.py."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from genprm.client import Client
from genprm.integrations.trl import process_reward
from genprm.serve.settings import ServeConfig
from tests.serve.shared import Live, SteppedJudge, live

pytestmark = pytest.mark.slow


async def test_no_answer_is_lost_or_mixed_up() -> None:
    judge = SteppedJudge(step_s=0.002)
    async with live(judge, ServeConfig(max_in_flight=8, queue=24)) as one:
        statuses: Counter[int] = Counter()

        async def honest(number: int) -> None:
            rng = random.Random(number)
            done = 0
            while done < 8:
                values = [rng.randrange(3) for _ in range(rng.randrange(1, 5))]
                body = {
                    "problem": f"{number}: {values}",
                    "steps": [f"{value} = 1" for value in values],
                    "id": str(number),
                }
                response = await one.post("/v1/score", body)
                statuses[response.status_code] += 1
                if response.status_code == 200:
                    row = response.json()
                    assert row["id"] == str(number)
                    assert row["scores"] == [0.9 if value == 1 else 0.0 for value in values]
                    done += 1
                else:
                    assert response.status_code == 429
                    await asyncio.sleep(0.05 * rng.random())

        async def hostile(number: int) -> None:
            for turn in range(8):
                match (number + turn) % 4:
                    case 0:
                        response = await one.http.post("/v1/judge", content=b"[" * 9000)
                    case 1:
                        response = await one.post("/v1/judge", {"problem": 1, "steps": {}})
                    case 2:
                        response = await one.http.get("/v1/judge")
                    case _:
                        await _leave(one, f"{number}/{turn}")
                        continue
                assert response.status_code in (400, 405, 422)

        await asyncio.gather(*(honest(number) for number in range(48)), *(hostile(number) for number in range(16)))
        assert statuses[200] == 48 * 8
        assert judge.most_in_flight <= 8
        assert await one.metric("genprm_solutions_in_flight") == 0
        assert await one.metric("genprm_queue ") == 0
        assert one.app.service.desk._flights == {}


async def test_the_reward_calls_of_a_training_leak_nothing() -> None:
    async with live(SteppedJudge()) as one:
        with Client(one.url, connections=4) as client:
            reward = process_reward(client)

            async def step(number: int) -> None:
                completions = [f"{value} = {number % 3}\n\n\\boxed{{1}} = \\boxed{{1}}" for value in range(8)]
                rewards = await reward(
                    prompts=[f"problem {number}"] * 8, completions=completions, completion_ids=[], answer=["1"] * 8
                )
                assert rewards == [0.95 if value == number % 3 else 0.5 for value in range(8)]

            for number in range(50):
                await step(number)
            before = footprint()
            for number in range(500):
                await step(number)
            after = footprint()
            print(f"before {before}, after {after}")
            assert after.files <= before.files + 8
            assert after.tasks <= before.tasks + 4
            assert after.threads <= before.threads + 2
            assert after.objects <= before.objects * 1.02 + 500
            assert after.memory_mb <= before.memory_mb + 16
            assert client.stats.failures == 0


class Footprint(NamedTuple):
    """What this process, client and service together, has open and holds."""

    files: int
    tasks: int
    threads: int
    objects: int
    memory_mb: float


def footprint() -> Footprint:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Footprint(
        len(os.listdir("/proc/self/fd")),
        len(asyncio.all_tasks()),
        threading.active_count(),
        len(gc.get_objects()),
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    )


async def _leave(one: Live, name: str) -> None:
    try:
        await one.post("/v1/judge", {"problem": name, "steps": ["wait"]}, timeout=0.05)
    except httpx.TimeoutException:
        return
