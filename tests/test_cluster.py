"""The run over a Ray cluster, on a Ray of this machine with two workers that each hold the built-in model."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from genprm.cluster import ClusterError, ClusterPRM, load_cluster
from genprm.inputs import read_rows
from genprm.prms import PRMError, load_prm
from genprm.runs import open_run
from genprm.verify import verify

EXAMPLES = Path(__file__).parent.parent / "examples" / "solutions.jsonl"
pytestmark = [pytest.mark.slow, pytest.mark.bubblewrap, pytest.mark.filterwarnings("default")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster() -> AsyncIterator[ClusterPRM]:
    import ray

    # Ray runs workers at a low priority, which means never where other tests share the processor.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    prm = await load_cluster("ray", "nano", workers=2, engine="transformers", sandbox="bubblewrap", temperature=0.0)
    yield prm
    await prm.close()
    ray.shutdown()


async def test_a_worker_that_is_killed_loses_nothing(cluster: ClusterPRM, tmp_path: Path) -> None:
    rows = list(read_rows([str(EXAMPLES)], limit=6))
    victim = await cluster.workers[0].pid.remote()
    with open_run(tmp_path / "run", command="verify", config={"model": "nano"}) as run:
        work = asyncio.create_task(verify(iter(rows), cluster, run, concurrency=4))
        while not run.done:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        progress = await work
    assert (progress.judged, progress.failed) == (len(rows), 0)
    written = [json.loads(line) for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in written}) == len(written) == len(rows)
    prm = await load_prm("nano", engine="transformers", sandbox="bubblewrap", temperature=0.0)
    alone = {row.id: await prm.judge(row.problem, row.steps) for row in rows[:2]}
    await prm.close()
    for row in written:
        if row["id"] in alone:
            assert row["first_error"] == alone[row["id"]].first_error


async def test_errors_come_from_the_worker_as_they_are(cluster: ClusterPRM) -> None:
    with pytest.raises(PRMError, match="no steps"):
        await cluster.judge("What?", [])


async def test_more_workers_than_there_is_room_for_are_refused(cluster: ClusterPRM) -> None:
    with pytest.raises(ClusterError, match="no room for 40 workers of one CPU and 0 GPUs: it has 3 CPUs"):
        await load_cluster("ray", "nano", workers=40)


async def test_a_worker_that_does_not_start_says_why(cluster: ClusterPRM) -> None:
    with pytest.raises(ClusterError, match="there is no model in '/nowhere'"):
        await load_cluster("ray", "/nowhere", workers=1, sandbox="bubblewrap")
