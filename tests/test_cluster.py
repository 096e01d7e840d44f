"""Runs over a Ray cluster, on a local Ray with two workers that each hold a built-in model."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

import genprm.cluster
from genprm.cli.main import app
from genprm.cluster import (
    ClusterEngine,
    ClusterError,
    ClusterPRM,
    Workers,
    _Worker,  # pyright: ignore[reportPrivateUsage]
    load_cluster,
    load_cluster_engine,
)
from genprm.data.inputs import read_rows
from genprm.prms import PRMError, load_prm
from genprm.runs.folder import open_run
from genprm.runs.verify import verify

EXAMPLES = Path(__file__).parent.parent / "examples" / "solutions.jsonl"
pytestmark = [pytest.mark.slow, pytest.mark.bubblewrap, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    # Ray runs workers at a low priority, so they might never run beside other tests.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    ray.init(num_cpus=5, resources={"slot": 1}, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(local_ray: None) -> AsyncIterator[ClusterPRM]:
    prm = await load_cluster("ray", "nano", workers=2, engine="transformers", sandbox="bubblewrap", temperature=0.0)
    yield prm
    await prm.close()


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
    with pytest.raises(ClusterError, match="no room for 40 workers of one CPU and 0 GPUs: it has 5 CPUs"):
        await load_cluster("ray", "nano", workers=40)


async def test_a_worker_that_does_not_start_says_why(cluster: ClusterPRM) -> None:
    with pytest.raises(ClusterError, match="there is no model in '/nowhere'"):
        await load_cluster("ray", "/nowhere", workers=1, sandbox="bubblewrap")


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def gone(pids: Sequence[int]) -> None:
    while any(map(alive, pids)):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.05)


def pids_in(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def workers_with(opening: Any, start_s: float = 60.0) -> Workers:
    """Workers on a cluster with room for only one at a time."""
    import ray

    actors: Any = ray.remote(_Worker)
    return Workers(actors.options(num_cpus=0, resources={"slot": 1}, max_concurrency=8), opening, start_s=start_s)


async def test_a_worker_that_is_only_unreachable_makes_room_for_its_successor(local_ray: None, tmp_path: Path) -> None:
    class Unreachable:
        async def ask(self) -> int:
            import os

            from ray.exceptions import ActorUnavailableError

            if not (tmp_path / "first").exists():
                (tmp_path / "first").write_text(str(os.getpid()))
                raise ActorUnavailableError("The actor may be available later", None)
            return os.getpid()

        async def close(self) -> None: ...

    async def opening() -> tuple[Any, dict[str, Any]]:
        return Unreachable(), {}

    workers = workers_with(opening)
    await workers.start(1)
    successor = await asyncio.wait_for(workers.call("ask"), 60)
    first = int((tmp_path / "first").read_text())
    assert successor != first
    await asyncio.wait_for(gone([first]), 10)
    await workers.close()
    await asyncio.wait_for(gone([successor]), 10)


async def test_a_worker_without_room_is_given_up_and_leaves_nothing(local_ray: None, tmp_path: Path) -> None:
    async def opening() -> tuple[Any, dict[str, Any]]:
        import os

        (tmp_path / str(os.getpid())).touch()
        return None, {}

    workers = workers_with(opening, start_s=8)
    with pytest.raises(ClusterError, match=r"did not open within 8 s\. Is there room on the cluster"):
        await workers.start(2)
    await workers.close()
    await asyncio.wait_for(gone(pids_in(tmp_path)), 10)


async def test_late_starters_end_when_another_one_fails(local_ray: None, tmp_path: Path) -> None:
    import ray

    async def opening() -> tuple[Any, dict[str, Any]]:
        import asyncio
        import os

        (tmp_path / str(os.getpid())).touch()
        while len(os.listdir(tmp_path)) < 2:  # noqa: ASYNC110 - the other one is another process
            await asyncio.sleep(0.05)
        if str(os.getpid()) == min(os.listdir(tmp_path)):
            raise ValueError("no model here")
        await asyncio.sleep(600)
        return None, {}

    actors: Any = ray.remote(_Worker)
    workers = Workers(actors.options(num_cpus=0, max_concurrency=8), opening)
    with pytest.raises(ClusterError, match="no model here"):
        await asyncio.wait_for(workers.start(2), 120)
    await workers.close()
    await asyncio.wait_for(gone(pids_in(tmp_path)), 10)


LABEL = ("label", "--generate", "3", "--temperature", "1", "--first", "12", "--most", "24", "--max-tokens", "200")
SYNTHESIZE = ("--teacher", "nano-policy", "--max-tokens", "60", "--sandbox", "bubblewrap", "--engine", "transformers")
ON_TWO = ("--cluster", "ray", "--workers", "2")


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output + result.stderr
    return result.stderr


def lines_of(file: Path) -> list[dict[str, object]]:
    """The whole lines of a file that may be written to."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Killer:
    """Kills the first worker of a command's cluster when a file has a number of lines."""

    def __init__(self, file: Path, lines: int) -> None:
        self.file, self.lines = file, lines
        self.at = 0
        """Number of lines at the kill; 0 before it."""

    async def load(self, address: str, model: str, **options: Any) -> ClusterEngine:
        engine = await load_cluster_engine(address, model, **options)
        pid = await engine.workers[0].pid.remote()
        self.task = asyncio.create_task(self.kill(pid))
        return engine

    async def kill(self, pid: int) -> None:
        while (there := len(lines_of(self.file))) < self.lines:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        self.at = there


def test_label_and_synthesize_lose_nothing_with_a_worker(
    local_ray: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    alone, labels = tmp_path / "alone", tmp_path / "labels"
    command(*LABEL, "--engine", "transformers", "--out", alone)
    rollouts = lines_of(alone / "rollouts.jsonl")
    killer = Killer(labels / "rollouts.jsonl", len(rollouts) // 4)
    monkeypatch.setattr(genprm.cluster, "load_cluster_engine", killer.load)
    said = command(*LABEL, "--engine", "transformers", *ON_TWO, "--out", labels)
    assert "Cluster: 2 workers with nano-policy" in said
    assert 0 < killer.at < len(rollouts)
    assert "a worker died and is being replaced" in caplog.text
    # The journal is the driver's: each rollout is in it once, from any worker.
    names = [(line["problem"], line["name"]) for line in lines_of(labels / "rollouts.jsonl")]
    assert len(set(names)) == len(names) == len(rollouts)
    assert by_key(labels) == by_key(alone)
    # A run can be resumed with or without the cluster.
    command(*LABEL, "--engine", "transformers", "--out", labels)

    monkeypatch.undo()
    plain, made = tmp_path / "plain", tmp_path / "made"
    command("synthesize", alone, *SYNTHESIZE, "--out", plain)
    killer = Killer(made / "rows.jsonl", 1)
    monkeypatch.setattr(genprm.cluster, "load_cluster_engine", killer.load)
    command("synthesize", alone, *SYNTHESIZE, *ON_TWO, "--concurrency", "3", "--out", made)
    assert 0 < killer.at < len(lines_of(made / "rows.jsonl"))
    assert by_key(made) == by_key(plain)


def by_key(run: Path) -> dict[object, dict[str, object]]:
    """The rows of a run; checks that each is unique."""
    rows = lines_of(run / "rows.jsonl")
    found = {row["key"]: row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "2"), "workers 2 need a cluster"),
        (("--cluster", "ray", "--policy-url", "http://127.0.0.1:9/v1"), "every model has a server"),
    ],
)
def test_a_cluster_with_nothing_to_do_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, [*LABEL, *arguments, "--out", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in result.stderr
