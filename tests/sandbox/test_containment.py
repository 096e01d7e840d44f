# ruff: noqa: E501
"""A session is the unit of failure: many sessions together, and correct reports about honest code."""

from __future__ import annotations

import asyncio
import json

import pytest

from genprm.sandbox import Limits, Sandbox, Status
from genprm.sandbox.attacks.protocol import FIND
from genprm.sandbox.guest.frames import MAX_ERROR

from .conftest import opened

pytestmark = pytest.mark.slow


NEXT = "import os; print(os.getpid() > 0)"


async def clean(box: Sandbox, guests: int) -> None:
    """Checks that the guest is the same and has nothing of ended sessions."""
    assert box.guests_started == guests
    async with box.session() as session:
        assert (await session.run(NEXT)).stdout == "True\n"
    (lane,) = await box.stats()
    assert (lane["strays"], lane["awake"], lane["zombies"], lane["scratch_entries"]) == (0, 0, 0, 0)


async def test_an_honest_exit_is_always_an_exit(box: Sandbox) -> None:
    for before in ("", "x = 1"):
        for _ in range(20):
            async with box.session() as session:
                if before:
                    assert (await session.run(before)).ok
                result = await session.run("import os; os._exit(0)")
                assert (result.status, result.error) == (Status.EXIT, "the process ended by itself with code 0")


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("raise ValueError('\\ud800')", Status.EXCEPTION, "ValueError: \\ud800"),
        ("class \U00010400(Exception): pass\nraise \U00010400('\\udfff\\0')", Status.EXCEPTION, "\U00010428: \\udfff\0"),
        ("import sys; sys.exit('\\ud800')", Status.EXIT, "sys.exit('\\ud800')"),
        ("import sys; sys.exit(10**200000)", Status.EXIT, "sys.exit(an integer of more than 64 bits)"),
        ("import os; os.kill(os.getpid(), 40)", Status.KILLED, "died of signal 40"),
        ("import os; os.kill(os.getpid(), 24)", Status.KILLED, "died of SIGXCPU"),
    ],
)  # fmt: skip
async def test_every_ending_is_named_and_can_be_encoded(box: Sandbox, code: str, status: Status, error: str) -> None:
    async with box.session() as session:
        result = await session.run(code)
    assert (result.status, result.error) == (status, error) or "\U00010400" in (result.error or "")
    json.dumps([result.error, result.stdout], ensure_ascii=False).encode("utf-8")


async def test_an_error_is_never_longer_than_promised(box: Sandbox) -> None:
    for code in ("raise ValueError('x' * 10**6)", "raise type('E' * 10**6, (Exception,), {})()", "raise ValueError('\\ud800' * 10**5)",
                 "import sys; sys.exit('x' * 10**6)", "raise ValueError('\U0001f600' * 5000)"):  # fmt: skip
        async with box.session() as session:
            result = await session.run(code)
        assert result.error
        assert len(result.error) <= MAX_ERROR


async def test_a_forged_report_shows_nothing_that_was_printed(box: Sandbox) -> None:
    for _ in range(10):
        async with box.session() as session:
            result = await session.run(
                "import os, time\nos.write(4, b'x' * 100)\nprint('WROTE 4', flush=True)\ntime.sleep(1)"
            )
        assert (result.status, result.stdout) == (Status.KILLED, "")


async def test_a_session_that_was_ended_says_why_from_then_on(box: Sandbox) -> None:
    guests = box.guests_started
    hold = (
        "import sys\nsys.modules['guest.session']._let_go_of_files = lambda: None\n"
        "f = [open(f'f{i}', 'w+') for i in range(40)]\nfor one in f: one.write('x' * 100_000); one.flush()"
    )
    async with box.session() as session:
        assert (await session.run(hold)).ok
        for _ in range(2):
            result = await session.run("print(1)")
            assert result.status is Status.KILLED
            assert "the session was ended: it holds" in (result.error or "")
    await clean(box, guests)


async def test_what_is_no_python_is_known_from_what_says_so_after_it_ran(box: Sandbox) -> None:
    async with box.session() as session:
        await session.run("x = 1")
        assert (await session.run("if True print(1)")).status is Status.INVALID_CODE
        result = await session.run(
            FIND
            + 'report({"outcome": "invalid_code", "error": "SyntaxError: x", "nonce": nonce})\nimport time; time.sleep(9)'
        )
        assert result.status is Status.KILLED
        assert (await session.run("print(x)")).stdout == "1\n"


async def test_a_file_left_open_does_not_hit_the_next_one(box: Sandbox) -> None:
    async with box.session() as session:
        assert (await session.run("f = open('a', 'w')\nf.write('x')")).ok
        result = await session.run("f = open('b', 'w+')\nf.write('new')\nf.seek(0)\nprint(f.read())")
        assert result.stdout == "new\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_many_resting_sessions_cannot_use_up_the_guest(backend: str) -> None:
    """Threads, deleted files and pipes: the largest holders are discarded, and a fresh session is served."""
    threads = "import threading, time\nfor _ in range(6): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
    files = (
        "import sys\nsys.modules['guest.session']._let_go_of_files = lambda: None\n"
        "f = [open(f'f{i}', 'w+') for i in range(6)]\nfor one in f: one.write('x' * 100_000); one.flush()"
    )
    pipes = "import os, sys\nsys.modules['guest.session']._let_go_of_files = lambda: None\np = [os.pipe() for _ in range(20)]"
    box = await opened(backend, Limits(wall_s=2.0, memory_mb=256), lanes=1)
    try:
        guests = box.guests_started
        for code in (threads, files, pipes):
            sessions = [box.session() for _ in range(90)]
            for session in sessions:
                assert (await session.run(code)).status in (Status.OK, Status.KILLED)
            async with box.session() as honest:
                assert (await honest.run("open('f', 'w').write('x' * 10**6)\nprint(1)")).stdout == "1\n"
                assert (await honest.run("print(2)")).stdout == "2\n"
            await asyncio.gather(*(session.close() for session in sessions))
            await clean(box, guests)
    finally:
        await box.close()
