# ruff: noqa: E501
"""The contract of a session, on both backends."""

from __future__ import annotations

import asyncio
import time

import pytest

from genprm.sandbox import Limits, Sandbox, SandboxError, Status

from .conftest import LIMITS, opened


async def test_names_live_through_a_session_and_not_beyond(box: Sandbox) -> None:
    async with box.session() as session:
        assert (await session.run("x = 41\ndef f(y): return x + y")).ok
        assert (await session.run("print(f(1))")).stdout == "42\n"
    async with box.session() as session:
        result = await session.run("print(x)")
    assert result.status is Status.EXCEPTION
    assert result.error == "NameError: name 'x' is not defined"


async def test_two_sessions_do_not_share_a_namespace(box: Sandbox) -> None:
    async with box.session() as one, box.session() as other:
        await asyncio.gather(one.run("x = 1"), other.run("x = 2"))
        results = await asyncio.gather(one.run("print(x)"), other.run("print(x)"))
    assert [result.stdout for result in results] == ["1\n", "2\n"]


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("print(1)", Status.OK, None),
        ("", Status.OK, None),
        ("1 / 0", Status.EXCEPTION, "ZeroDivisionError: division by zero"),
        ("raise ValueError", Status.EXCEPTION, "ValueError: "),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e", Status.EXCEPTION, "KeyError: 'k'"),
        ("assert 1 == 2, 'no'", Status.EXCEPTION, "AssertionError: no"),
        ("class Wrong(Exception): pass\nraise Wrong('x')", Status.EXCEPTION, "Wrong: x"),
        ("def f(): f()\nf()", Status.EXCEPTION, "RecursionError: maximum recursion depth exceeded"),
        ("input()", Status.EXCEPTION, "EOFError: EOF when reading a line"),
        ("import sys; sys.exit(0)", Status.EXIT, "sys.exit(0)"),
        ("import sys; sys.exit('done')", Status.EXIT, "sys.exit('done')"),
        ("import os; os._exit(0)", Status.EXIT, "the process ended by itself with code 0"),
        ("import os; os._exit(3)", Status.EXIT, "the process ended by itself with code 3"),
        ("x = bytearray(4 << 30)", Status.MEMORY, "MemoryError: "),
        ("import os; os.abort()", Status.KILLED, "died of SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", Status.KILLED, "died of SIGSEGV"),
        ("if True print(1)", Status.INVALID_CODE, "SyntaxError: invalid syntax (<string>, line 1)"),
        ("x = \ud800", Status.INVALID_CODE, "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 4: surrogates not allowed"),
        ("# " + "x" * (1 << 20), Status.INVALID_CODE, "longer than 1048576 bytes"),
    ],
)  # fmt: skip
async def test_statuses(box: Sandbox, code: str, status: Status, error: str | None) -> None:
    async with box.session() as session:
        result = await session.run(code)
    assert (result.status, result.error) == (status, error)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bad",
    ["x = 2\nwhile True: pass", "x = 2\nimport os; os._exit(0)", "x = 2\nimport sys; sys.exit(0)", "x = 2\nbytearray(4 << 30)",
     "x = 2\n1 +", "x = 2\nimport ctypes; ctypes.string_at(0)", "x = 2\nimport os; os.kill(os.getpid(), 9)"],
)  # fmt: skip
async def test_a_snippet_that_dies_takes_only_its_own_effects(box: Sandbox, bad: str) -> None:
    async with box.session() as session:
        assert (await session.run("x = 1\nseen = [0]")).status.keeps_state
        assert not (await session.run(bad)).status.keeps_state
        assert (await session.run("print(x)")).stdout == "1\n"
        # The restored state can be extended and restored again.
        await session.run("seen.append(1)\nx += 1")
        assert not (await session.run(bad)).ok
        assert (await session.run("print(x, seen)")).stdout == "2 [0, 1]\n"


async def test_a_first_snippet_that_dies_leaves_a_fresh_session(box: Sandbox) -> None:
    async with box.session() as session:
        assert (await session.run("x = 1\nimport os; os._exit(1)")).status is Status.EXIT
        assert (await session.run("print(sorted(n for n in dir() if n[0] != '_'))")).stdout == "[]\n"


async def test_an_exception_keeps_what_was_done_before_it(box: Sandbox) -> None:
    async with box.session() as session:
        assert (await session.run("x = 1\n1 / 0")).status.keeps_state
        assert (await session.run("print(x)")).stdout == "1\n"


@pytest.mark.slow
async def test_what_was_printed_before_the_end_is_kept(box: Sandbox) -> None:
    async with box.session() as session:
        hung = await session.run("print('before')\nimport time; time.sleep(100)")
        assert (hung.status, hung.stdout) == (Status.TIMEOUT, "before\n")
        crashed = await session.run("print('before')\nimport os; os.abort()")
        assert (crashed.status, crashed.stdout) == (Status.KILLED, "before\n")


async def test_only_standard_output_is_kept(box: Sandbox) -> None:
    code = "import os, sys\nprint('a')\nprint('b', file=sys.stderr)\nos.write(1, b'c\\n')\nos.write(2, b'd\\n')"
    async with box.session() as session:
        assert (await session.run(code)).stdout == "a\nc\n"


async def test_long_output_keeps_head_and_tail(box: Sandbox) -> None:
    async with box.session() as session:
        result = await session.run("for i in range(100_000): print(i)")
    whole = "".join(f"{i}\n" for i in range(100_000))
    half = LIMITS.output_kb << 9
    assert result.ok
    assert result.truncated == len(whole) - 2 * half
    assert result.stdout == f"{whole[:half]}\n... {result.truncated} bytes cut ...\n{whole[-half:]}"


async def test_odd_characters_are_data(box: Sandbox) -> None:
    async with box.session() as session:
        result = await session.run(
            "print('a\\0b\\x1b[31m\\ud800\\u2028é😀')\nimport sys; sys.stdout.buffer.write(b'\\xff')"
        )
    assert result.ok
    assert result.stdout == "a\0b\x1b[31m\\ud800\u2028é😀\n\ufffd"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')", "import time; time.sleep(100)",
     "import numpy; numpy.linalg.svd(numpy.ones((3500, 3500)) + numpy.eye(3500))",
     "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"],
)  # fmt: skip
async def test_the_wall_limit_holds_within_a_quarter_second(backend: str, code: str) -> None:
    limits = Limits(wall_s=0.5, cpu_s=5.0, memory_mb=2048)
    box = await opened(backend, limits)
    try:
        async with box.session() as session:
            await session.run("x = 1")
            started = time.perf_counter()
            result = await session.run(code)
            took = time.perf_counter() - started
            assert result.status is Status.TIMEOUT
            assert result.error == "wall limit of 0.5 s reached"
            assert 0.5 <= result.duration_s < 0.75
            assert took < 0.85
            assert (await session.run("print(x)")).stdout == "1\n"
    finally:
        await box.close()


@pytest.mark.slow
async def test_the_cpu_limit_holds_for_each_snippet(backend: str) -> None:
    box = await opened(backend, Limits(wall_s=10.0, cpu_s=1.0))
    try:
        async with box.session() as session:
            await session.run("import time\nx = 1")
            for _ in range(2):  # each snippet has the whole limit
                used = await session.run("end = time.process_time() + 0.7\nwhile time.process_time() < end: pass")
                assert used.ok
            result = await session.run("while True: pass")
            assert (result.status, result.error) == (Status.TIMEOUT, "CPU limit of 1 s reached")
            assert (await session.run("print(x)")).stdout == "1\n"
    finally:
        await box.close()


async def test_libraries_are_there_and_warm(box: Sandbox) -> None:
    code = (
        "import mpmath, numpy, scipy.optimize, sympy\n"
        "print(sympy.solve('x**2 - 2'), mpmath.mp.dps, numpy.arange(3).sum(), scipy.optimize.brentq(lambda x: x - 1, 0, 3))"
    )
    async with box.session() as session:
        assert (await session.run(code)).stdout == "[-sqrt(2), sqrt(2)] 15 3 1.0\n"


async def test_runs_are_deterministic(box: Sandbox) -> None:
    code = (
        "import random, numpy, time, os\n"
        "print(random.random(), numpy.random.rand(), hash('a'), list({'a', 'b', 'c'}), time.tzname, os.cpu_count() > 0)"
    )
    seen: set[str] = set()
    for _ in range(3):
        async with box.session() as session:
            seen.add((await session.run(code)).stdout)
    assert len(seen) == 1


async def test_random_numbers_go_on_through_a_session(box: Sandbox) -> None:
    async with box.session() as session:
        together = (await session.run("import random\nrandom.seed(7)\nprint(random.random(), random.random())")).stdout
    async with box.session() as session:
        await session.run("import random\nrandom.seed(7)")
        apart = [(await session.run("print(random.random())")).stdout.strip() for _ in range(2)]
    assert together.split() == apart


async def test_long_integers_can_be_printed(box: Sandbox) -> None:
    async with box.session() as session:
        assert (await session.run("import math\nprint(len(str(math.factorial(3000))))")).stdout == "9131\n"


async def test_files_last_for_one_snippet(box: Sandbox) -> None:
    async with box.session() as session:
        wrote = await session.run(
            "open('f', 'w').write('x')\nprint(open('f').read())\nimport tempfile\ntempfile.mkdtemp()"
        )
        assert wrote.stdout == "x\n"
        assert (await session.run("import os\nprint(os.listdir('.'))")).stdout == "[]\n"


async def test_many_sessions_wait_without_blocking_the_loop(box: Sandbox) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def one(number: int) -> str:
        async with box.session() as session:
            return (await session.run(f"import time; time.sleep(0.02)\nprint({number})")).stdout

    ticker = asyncio.create_task(tick())
    assert await asyncio.gather(*(one(n) for n in range(30))) == [f"{n}\n" for n in range(30)]
    ticker.cancel()
    assert ticks >= 20


async def test_giving_up_on_a_snippet_leaves_the_lane_in_step(box: Sandbox) -> None:
    async with box.session() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await session.run("import time; time.sleep(1)\nprint('late')")
    async with box.session() as session:
        assert (await session.run("print('right')")).stdout == "right\n"


async def test_a_closed_session_says_so(box: Sandbox) -> None:
    session = box.session()
    await session.run("x = 1")
    await session.close()
    await session.close()
    with pytest.raises(SandboxError, match="closed"):
        await session.run("x")


@pytest.mark.slow
async def test_scipy_is_loaded_for_sessions_that_name_it_alone(backend: str) -> None:
    box = await opened(backend, lanes=1)
    loaded = "import sys; print(any(name.startswith('sci' + 'py.optimize') for name in sys.modules))"
    try:
        await box.stats()  # waits until everything is warm
        for code, answer in ((loaded, "False\n"), (f"import scipy\n{loaded}", "True\n")):
            async with box.session() as session:
                assert (await session.run(code)).stdout == answer
    finally:
        await box.close()


async def test_code_that_is_too_long_lets_others_run(box: Sandbox) -> None:
    long = "#" + "x" * (1 << 20)
    answered = False
    end = time.monotonic() + 30  # a timeout of asyncio's would not come if nothing else runs

    async def attack() -> None:
        while not answered:
            assert time.monotonic() < end, "nothing else ran"
            async with box.session() as session:
                assert (await session.run(long)).status is Status.INVALID_CODE

    async def honest() -> None:
        nonlocal answered
        async with box.session() as session:
            assert (await session.run("print(1)")).stdout == "1\n"
        answered = True

    await asyncio.gather(attack(), honest())
