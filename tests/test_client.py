"""`genprm.client` against a live service, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from genprm import client as client_module
from genprm.client import Client, ClientError, item
from genprm.engines.errors import EngineError
from genprm.prms.base import OnStep
from genprm.serve.settings import ServeConfig
from genprm.types import Judgement
from tests.conftest import free_port
from tests.serve.shared import SteppedJudge, live

GOOD, BAD = "2 = 2", "2 = 3"


async def test_all_calls() -> None:
    async with live(SteppedJudge()) as one:
        with Client(one.url) as client:
            score = await client.ascore("a", f"{GOOD}\n\n{BAD}", correct=True)
            assert score is not None
            assert (score.scores, score.spans, score.first_error) == ([0.9, 0.0], [[0, 5], [7, 12]], 1)
            assert score.reward == 0.5
            same = await asyncio.to_thread(client.score, "a", [GOOD, BAD], correct=True)
            assert same is not None
            assert (same.scores, same.spans) == (score.scores, None)
            row = await client.ajudge("a", [GOOD], id="x")
            assert row is not None
            assert row["steps"][0]["chains"][0]["text"]
            critique = await client.acritique("a", [BAD])
            assert critique is not None
            assert critique["step"] == 0
            many = [item(str(n), [GOOD if n % 2 else BAD]) for n in range(100)]
            for found in (await client.ascore_many(many), await asyncio.to_thread(client.score_many, many)):
                assert [one and one.scores for one in found] == [[0.9 if n % 2 else 0.0] for n in range(100)]
            assert client.score_many([]) == []
            assert client.stats.failures == client.stats.retries == 0


async def test_connections_are_kept() -> None:
    async with live(SteppedJudge()) as one:
        with Client(one.url, connections=2) as client:
            await asyncio.gather(*(client.ascore(str(n), [GOOD]) for n in range(40)))
            assert 1 <= sum(map(len, client._idle.values())) <= 2


async def test_what_is_refused_is_none_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with live(SteppedJudge()) as one:
        client = Client(one.url)
        assert await client.ascore("a", [" "]) is None
        assert client.stats.failures == 1
        assert client.stats.retries == 0
        assert "422" in caplog.text
        strict = Client(one.url, raise_errors=True)
        with pytest.raises(ClientError, match="step 0"):
            await strict.ascore("a", [" "])
        # A value that JSON cannot express does not raise either.
        assert await client.ascore("a", [GOOD], answer=object()) is None
        assert client.score("a", [GOOD], answer={1, 2}) is None
        assert client.stats.failures == 3
        # A failure does not affect the other solutions.
        brief = Client(one.url, timeout_s=2.0)
        found = await brief.ascore_many([item("a", [GOOD]), item("b", ["raise"])])
        assert [one and one.scores for one in found] == [[0.9], None]
        assert brief.stats.failures == 1
        brief.raise_errors = True
        with pytest.raises(ClientError, match="no answer within 2 s"):
            await brief.ascore_many([item("a", [GOOD]), item("b", ["raise"])])


class FlakyJudge(SteppedJudge):
    """Fails twice."""

    failures = 2

    async def judge_watched(self, problem: str, steps: Sequence[str], on_step: OnStep, *, seed: int = 0) -> Judgement:
        if problem == "b" and self.failures:
            self.failures -= 1
            raise EngineError("the server is gone")
        return await super().judge_watched(problem, steps, on_step, seed=seed)


async def test_solutions_that_failed_for_a_passing_reason_are_asked_for_again() -> None:
    async with live(FlakyJudge()) as one:
        client = Client(one.url, timeout_s=30)
        found = await client.ascore_many([item("a", [GOOD]), item("b", [BAD])])
        assert [one and one.scores for one in found] == [[0.9], [0.0]]
        assert client.stats.failures == 0
        assert client.stats.retries == 2


async def test_a_deadline_holds() -> None:
    async with live(SteppedJudge()) as one:
        client = Client(one.url, timeout_s=0.8)
        started = time.monotonic()
        score = await client.ascore("a", [GOOD, "wait"])
        assert time.monotonic() - started < 2
        assert score is not None
        assert score.scores == [0.9, None]
        assert not score.complete


@pytest.mark.slow
async def test_a_full_queue_is_waited_for() -> None:
    judge = SteppedJudge(step_s=0.05)
    async with live(judge, ServeConfig(max_in_flight=1, queue=1)) as one:
        client = Client(one.url, timeout_s=60)
        found = await asyncio.gather(*(client.ascore(str(n), [GOOD]) for n in range(8)))
        assert all(one is not None and one.scores == [0.9] for one in found)
        assert client.stats.retries > 0
        assert judge.most_in_flight == 1


async def test_cancelling_frees_the_judge() -> None:
    judge = SteppedJudge()
    async with live(judge) as one:
        client = Client(one.url)
        call = asyncio.create_task(client.ascore("a", ["wait"]))
        async with asyncio.timeout(10):
            while not judge.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            call.cancel()
            while judge.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert judge.cancelled == 1


async def test_a_service_that_comes_back_is_found_again() -> None:
    port = free_port()
    client = Client(f"http://127.0.0.1:{port}", timeout_s=30)
    call = asyncio.create_task(client.ascore("a", [GOOD]))
    await asyncio.sleep(0.5)
    assert not call.done()
    async with live(SteppedJudge(), port=port):
        score = await call
        assert score is not None
        assert score.scores == [0.9]
        assert client.stats.retries > 0
    # The idle connection is dead now.
    async with live(SteppedJudge(), port=port):
        assert await client.ascore("b", [GOOD]) is not None


def test_nobody_there() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", timeout_s=0.5)
    started = time.monotonic()
    assert client.score("a", [GOOD]) is None
    assert time.monotonic() - started < 3
    assert "Refused" in (client.stats.last_error or "")


@pytest.mark.slow
async def test_another_replica_is_tried() -> None:
    async with live(SteppedJudge()) as one:
        client = Client([f"http://127.0.0.1:{free_port()}", one.url], timeout_s=20)
        found = await asyncio.gather(*(client.ascore(str(n), [GOOD]) for n in range(6)))
        assert all(one is not None for one in found)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
        b"HTTP/1.1 503 Busy\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
@pytest.mark.slow
def test_servers_that_misbehave_give_none(reply: bytes) -> None:
    with _server(reply) as url:
        client = Client(url, timeout_s=1.0)
        assert client.score("a", [GOOD]) is None
        assert [client.score_many([item("a", [GOOD])])] == [[None]]


@pytest.mark.parametrize("url", ["127.0.0.1:8311", "ftp://x", "http://"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="must look like"):
        Client(url)


async def test_keys_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with live(SteppedJudge(), keys=("secret",)) as one:
        monkeypatch.setenv("GENPRM_URL", one.url)
        assert await Client().ascore("a", [GOOD]) is None
        monkeypatch.setenv("GENPRM_API_KEY", "secret")
        assert await Client().ascore("a", [GOOD]) is not None


async def test_pickles_and_forks() -> None:
    async with live(SteppedJudge()) as one:
        client = Client(one.url)
        await client.ascore("a", [GOOD])  # has a pool and an idle connection now
        again = pickle.loads(pickle.dumps(client))
        assert await again.ascore("a", [GOOD]) is not None
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            score = await asyncio.to_thread(pool.apply, client.score, ("a", [GOOD]))
        assert score.scores == [0.9]
        # As data loaders do: a child of a process whose client has threads and an open connection.
        code = (
            "import multiprocessing, sys\n"
            "from genprm.client import Client, item\n"
            "client = Client(sys.argv[1])\n"
            "assert client.score_many([item('a', ['2 = 2'])] * 4)[3].scores == [0.9]\n"
            "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
            "    print([one.scores for one in pool.starmap(client.score, [('a', ['2 = 2'])] * 6)])\n"
            "print(client.score('a', ['2 = 3']).scores)\n"
        )
        run = await asyncio.create_subprocess_exec(sys.executable, "-c", code, one.url, stdout=subprocess.PIPE)
        async with asyncio.timeout(60):
            assert (await run.communicate())[0] == b"%s\n[0.0]\n" % str([[0.9]] * 6).encode()


async def test_the_file_alone_is_enough(tmp_path: Path) -> None:
    copied = tmp_path / "reward_client.py"
    copied.write_text(inspect.getsource(client_module))
    code = "import sys; from reward_client import Client; print(Client(sys.argv[1]).score('a', ['2 = 2']).scores)"
    async with live(SteppedJudge()) as one:
        run = await asyncio.create_subprocess_exec(
            sys.executable,
            "-S",
            "-c",
            code,
            one.url,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
        )
        out, err = await run.communicate()
    assert out == b"[0.9]\n", err.decode()


@contextmanager
def _server(reply: bytes) -> Generator[str]:
    """Answers each connection with the same bytes and closes it."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(1)
                connection.recv(65536)
                connection.sendall(reply)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ended.set()
        thread.join()
        listening.close()
