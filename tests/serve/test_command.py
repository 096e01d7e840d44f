"""`genprm serve` as a process: with the built-in model, ended by signals, killed and restarted."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from genprm.client import Client
from genprm.data.word_problems import make_problems
from genprm.prms import load_prm
from genprm.runs.folder import read_rows_of
from genprm.runs.rows import VerifyRow
from tests.serve.shared import command

pytestmark = pytest.mark.slow


ANALYZE = ("--mode", "analyze")
PROBLEMS = make_problems(24, seed=41_000)


async def test_a_judgement_is_that_of_a_direct_call_and_what_was_accepted_is_finished(tmp_path: Path) -> None:
    prm = await load_prm("nano", mode="analyze")
    direct = {one.text: (await prm.judge(one.text, one.solution)).scores for one in PROBLEMS[:8]}
    await prm.close()
    async with command(
        "--mode", "analyze", "--port", "0", "--log-to", str(tmp_path / "log"), "--max-in-flight", "2"
    ) as (process, url):
        client = Client(url)
        first = await client.ascore(PROBLEMS[0].text, PROBLEMS[0].solution, answer=PROBLEMS[0].answer)
        assert first is not None
        assert first.correct
        calls = [asyncio.create_task(client.ascore(one.text, one.solution)) for one in PROBLEMS[:8]]
        async with asyncio.timeout(60):
            while await _metric(url, "genprm_queue ") < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        scores = {one.text: await call for one, call in zip(PROBLEMS[:8], calls, strict=True)}
        assert {text: score and score.scores for text, score in scores.items()} == {
            text: pytest.approx(known, abs=1e-4) for text, known in direct.items()
        }
        assert process.stderr is not None
        rest = (await process.stderr.read()).decode()
        assert await process.wait() == 0, rest
    lines = [json.loads(line) for line in rest.splitlines() if '"path"' in line]
    assert {"id", "client", "method", "path", "status", "seconds", "time", "level"} <= set(lines[-1])
    assert (
        len(list(read_rows_of(tmp_path / "log", VerifyRow))) == 9
    )  # the first came with an answer, so it is another row


@pytest.mark.slow
async def test_clients_go_on_after_a_kill() -> None:
    async with command(*ANALYZE, "--port", "0") as (process, url):
        client = Client(url, timeout_s=120)
        port = url.rpartition(":")[2]
        calls = [asyncio.create_task(client.ascore(one.text, one.solution)) for one in PROBLEMS]
        await asyncio.sleep(0.3)
        process.kill()
        await process.wait()
        async with command(*ANALYZE, "--port", port):
            scores = await asyncio.gather(*calls)
    assert all(score is not None and score.complete for score in scores)
    assert client.stats.retries > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "GENPRM_API_KEYS"),
        (("--runs", "runs"), "add --ui"),
        (("--port", "70000"), "70000"),
        (("--host", "203.0.113.1", "--no-auth"), "cannot listen on"),
    ],
)
async def test_what_cannot_be_served(arguments: tuple[str, ...], message: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "genprm.cli.main", "serve", *ANALYZE, *arguments), stderr=PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode in (1, 2)
    assert message in " ".join(errors.decode().split())


async def _metric(url: str, name: str) -> float:
    import httpx

    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{url}/metrics")).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
