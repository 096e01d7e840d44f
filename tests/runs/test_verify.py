"""The batch driver, with a judge whose answers are known beforehand."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from genprm.benchmarks.metrics import Tally
from genprm.config import Keep
from genprm.data.inputs import BadRow, InputRow, read_rows
from genprm.engines.errors import ContextOverflowError
from genprm.runs.driver import MAX_FAILURES_IN_A_ROW, BatchError
from genprm.runs.folder import RunError, open_run, read_rows_of
from genprm.runs.rows import FailureRow, VerifyRow, verify_row
from genprm.runs.verify import default_concurrency, finished_rows, verify
from genprm.types import Judgement
from tests.judges import ArithmeticJudge, row


def opened(path: Path):
    return open_run(path, command="verify", config={"model": "arithmetic"})


def stored(path: Path) -> dict[str, VerifyRow]:
    rows = list(read_rows_of(path, VerifyRow))
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: row for row in rows}


def failures(path: Path) -> list[FailureRow]:
    return list(read_rows_of(path, FailureRow, "failures.jsonl"))


async def test_a_row_holds_the_whole_judgement(tmp_path):
    with opened(tmp_path) as run:
        await verify([row(1, "1 = 1", "1 = 2", "so", label=1)], ArithmeticJudge(), run, concurrency=1)
    (out,) = stored(tmp_path).values()
    assert (out.key, out.id, out.problem, out.first_error, out.label) == ("0001", "1", "problem 1", 1, 1)
    assert out.scores == [0.9, 0.0, None]
    assert out.verdicts == ["Yes", "No", None]
    assert [step.step for step in out.steps] == ["1 = 1", "1 = 2", "so"]
    assert out.steps[0].chains[0].text == "I compare 1 = 1"
    assert out.steps[0].chains[0].code[0].stdout == "1\n"
    assert out.steps[1].log_odds is None  # JSON has no minus infinity
    assert out.steps[2].reason == "no chain gave a verdict (no_verdict)"
    assert out.tokens.model_dump() == {"prompt": 10, "generated": 5, "cached": 2, "requests": 0, "saved": 0}
    json.loads((tmp_path / "rows.jsonl").read_text(), parse_constant=pytest.fail)


async def test_keeping_scores_only(tmp_path):
    with opened(tmp_path) as run:
        await verify([row(1, "1 = 1" * 1000, "1 = 2")], ArithmeticJudge(), run, concurrency=1, keep=Keep.SCORES)
    (out,) = stored(tmp_path).values()
    assert out.problem is None
    assert out.scores == [0.0, 0.0]
    assert out.steps[0].code == {"ok": 1}
    assert len((tmp_path / "rows.jsonl").read_bytes()) < 800


async def test_failures_are_written_down_and_the_rest_goes_on(tmp_path):
    rows = [row(1), BadRow("in.jsonl", 2, "not JSON"), row(3, "raise"), row(4)]
    with opened(tmp_path) as run:
        progress = await verify(rows, ArithmeticJudge(), run, concurrency=2)
    assert (progress.judged, progress.failed, progress.kept) == (2, 2, 0)
    assert set(stored(tmp_path)) == {"0001", "0004"}
    assert {(f.line, f.kind, f.reason) for f in failures(tmp_path)} == {
        (2, "input", "not JSON"),
        (3, "EngineError", "the server is gone"),
    }


async def test_a_failed_row_is_tried_again_and_a_finished_one_is_not(tmp_path):
    judge = ArithmeticJudge()
    rows = [row(1), row(2, "raise")]
    with opened(tmp_path) as run:
        await verify(rows, judge, run, concurrency=1)
    mended = [row(1), row(2)]
    with opened(tmp_path) as run:
        progress = await verify(mended, judge, run, concurrency=1)
    assert (progress.judged, progress.kept, progress.failed) == (1, 1, 0)
    assert judge.judged == ["problem 1", "problem 2"]
    assert set(stored(tmp_path)) == {"0001", "0002"}
    assert failures(tmp_path) == []


async def test_rows_of_another_input_are_not_counted(tmp_path):
    with opened(tmp_path) as run:
        await verify([row(1), row(2)], ArithmeticJudge(), run, concurrency=1)
    with opened(tmp_path) as run:
        progress = await verify([row(2)], ArithmeticJudge(), run, concurrency=1)
        assert [row.key for row in finished_rows(run, progress)] == ["0002"]


async def test_no_more_rows_in_flight_and_read_ahead_than_said(tmp_path):
    judge = ArithmeticJudge(delay_s=0.001)
    read = 0

    def rows() -> Iterator[InputRow]:
        nonlocal read
        for number in range(300):
            read += 1
            assert read - len(judge.judged) <= 8 + 32 + 8 + 1
            yield row(number)

    with opened(tmp_path) as run:
        await verify(rows(), judge, run, concurrency=8)
    assert judge.most_in_flight == 8
    assert len(stored(tmp_path)) == 300


async def test_a_dead_server_ends_the_run_instead_of_failing_every_row(tmp_path):
    with opened(tmp_path) as run:
        with pytest.raises(BatchError, match=r"gave up: 2\d rows failed .* the server is gone"):
            await verify((row(n, "raise") for n in range(10_000)), ArithmeticJudge(), run, concurrency=4)
        assert MAX_FAILURES_IN_A_ROW <= len(failures(tmp_path)) < 30


class Outage(ArithmeticJudge):
    """Every judgement in flight fails at once, when there are 25 of them; the server is back for the others."""

    def __init__(self) -> None:
        super().__init__()
        self._all_here = asyncio.Barrier(25)

    async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
        if steps[0] == "raise":
            await self._all_here.wait()
        return await super().judge(problem, steps, seed=seed)


async def test_a_burst_that_fails_all_rows_in_flight_does_not_end_the_run(tmp_path):
    rows = [row(n, "raise" if n < 25 else "1 = 1") for n in range(60)]
    with opened(tmp_path) as run:
        progress = await verify(rows, Outage(), run, concurrency=25)
    assert (progress.judged, progress.failed) == (35, 25)


async def test_an_outage_that_goes_on_after_a_burst_ends_the_run(tmp_path):
    with opened(tmp_path) as run:
        with pytest.raises(BatchError, match=r"gave up: \d+ rows failed .* the server is gone"):
            await verify((row(n, "raise") for n in range(10_000)), Outage(), run, concurrency=25)
        assert MAX_FAILURES_IN_A_ROW <= len(failures(tmp_path)) <= 2 * 25 + MAX_FAILURES_IN_A_ROW


async def test_solutions_that_are_too_long_do_not_end_the_run(tmp_path):
    judge = ArithmeticJudge(error=ContextOverflowError("5000 tokens do not fit 4096"))
    with opened(tmp_path) as run:
        progress = await verify((row(n, "raise") for n in range(50)), judge, run, concurrency=4)
    assert progress.failed == 50


async def test_an_error_of_the_reader_ends_the_run(tmp_path):
    with opened(tmp_path) as run, pytest.raises(OSError, match="gone"):
        await verify(_broken(), ArithmeticJudge(), run, concurrency=4)
    assert set(stored(tmp_path)) == {"0001"}


def _broken() -> Iterator[InputRow]:
    yield row(1)
    raise OSError("gone")


async def test_a_full_disk_ends_the_run(tmp_path, monkeypatch):
    with opened(tmp_path) as run, Path("/dev/full").open("wb", buffering=0) as full:  # noqa: ASYNC230
        monkeypatch.setattr(run, "_rows", full)
        with pytest.raises(RunError, match="No space left"):
            await verify([row(1)], ArithmeticJudge(), run, concurrency=1)


async def test_cancelling_keeps_what_is_finished_and_waits_for_nobody(tmp_path):
    """Also while the reader waits for input that never arrives."""
    never = threading.Event()

    def rows() -> Iterator[InputRow]:
        yield from (row(1), row(2, "slow"))
        never.wait(30)

    class Slow(ArithmeticJudge):
        async def judge(self, problem: str, steps: Sequence[str], *, seed: int = 0) -> Judgement:
            if "slow" in steps:
                await asyncio.sleep(30)
            return await super().judge(problem, steps, seed=seed)

    with opened(tmp_path) as run:
        task = asyncio.create_task(verify(rows(), Slow(), run, concurrency=3))
        while not run.done:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
    never.set()
    assert set(stored(tmp_path)) == {"0001"}
    assert failures(tmp_path) == []


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_input(tmp_path):
    """20,000 rows of 2 kB are 40 MB; only their keys stay in memory."""
    text = "1 = 1" + " " * 2000
    rows = (row(number, text) for number in range(20_000))
    tracemalloc.start()
    try:
        with opened(tmp_path) as run:
            await verify(rows, ArithmeticJudge(), run, concurrency=16, keep=Keep.SCORES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


def test_metrics():
    tally = Tally()
    judge = ArithmeticJudge()
    for number, (steps, label) in enumerate(
        [(("1 = 1",), -1), (("1 = 2",), -1), (("1 = 1", "1 = 2"), 1), (("1 = 2",), 0), (("so",), 0), (("1 = 1",), None)]
    ):
        judgement = asyncio.run(judge.judge("p", steps))
        tally.add(verify_row(row(number, *steps, label=label), judgement, seconds=1.0))
    metrics = tally.metrics(failed=3)
    assert (metrics.rows, metrics.judged_right, metrics.judged_wrong, metrics.undecided, metrics.failed) == (
        6,
        2,
        3,
        1,
        3,
    )
    assert metrics.first_errors == {0: 2, 1: 1}
    assert (metrics.steps, metrics.steps_without_score) == (7, 1)
    assert metrics.tokens == {"prompt": 60, "cached": 12, "generated": 30, "requests": 0, "saved": 0}
    assert metrics.code == {"ok": 6}
    assert metrics.labels is not None
    assert metrics.labels.error_accuracy == pytest.approx(2 / 3)
    assert metrics.labels.correct_accuracy == pytest.approx(1 / 2)
    assert metrics.labels.f1 == pytest.approx(4 / 7)


def test_metrics_without_labels():
    assert Tally().metrics(failed=0).labels is None


@pytest.mark.parametrize(("capacity", "votes", "rows"), [(32, 1, 64), (32, 8, 8), (1, 8, 1), (5, 3, 4)])
def test_default_concurrency(capacity, votes, rows):
    assert default_concurrency(capacity, votes) == rows


KILLED = """
import asyncio, sys
from pathlib import Path
from genprm.data.inputs import read_rows
from genprm.runs.folder import open_run
from genprm.runs.verify import verify
sys.path.insert(0, {root!r})
from tests.judges import ArithmeticJudge

async def main():
    with open_run(Path({folder!r}), command="verify", config={{"model": "arithmetic"}}) as run:
        await verify(read_rows([{file!r}]), ArithmeticJudge(delay_s=0.002), run, concurrency=8)

asyncio.run(main())
"""


@pytest.mark.slow
def test_killed_at_random_moments_every_row_is_there_once(tmp_path):
    file, folder = tmp_path / "in.jsonl", tmp_path / "run"
    with file.open("w") as stream:
        for number in range(1500):
            steps = ["1 = 1", f"{number % 7} = 3"]
            stream.write(json.dumps({"problem": f"problem {number // 2}", "steps": steps}) + "\n")
    code = KILLED.format(root=str(Path(__file__).parents[2]), folder=str(folder), file=str(file))
    moments = random.Random(0)
    kills = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", code])
        _wait_for_rows(folder / "rows.jsonl", moments.randrange(50, 200), process)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 6
    subprocess.run([sys.executable, "-c", code], check=True)
    expected = {row.key: row for row in read_rows([file]) if isinstance(row, InputRow)}
    found = stored(folder)
    assert found.keys() == expected.keys()
    for key, out in found.items():
        assert out.steps[1].step == expected[key].steps[1]
        assert out.first_error == (-1 if out.steps[1].step == "3 = 3" else 1)


def _wait_for_rows(path: Path, more: int, process: "subprocess.Popen[bytes]") -> None:
    def count() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    target = count() + more
    while count() < target and process.poll() is None:
        threading.Event().wait(0.01)
