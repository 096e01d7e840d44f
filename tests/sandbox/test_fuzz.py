# ruff: noqa: E501
"""Whatever a session sends on its report channel ends at most that session.

Short here; GENPRM_FUZZ_S=1800 makes each backend's run that many seconds long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genprm.sandbox import Limits, Sandbox, Status
from genprm.sandbox.guest.frames import FrameError, decode
from genprm.sandbox.guest.reports import BadReport, Crowded, NotReady, Outcome, Ready, Reports, Runner, parse

from .conftest import opened

SECONDS = float(os.environ.get("GENPRM_FUZZ_S", "4"))
RENEWED_S = 60
"""For how long one sandbox is used: after many more snippets it would replace its guest by itself."""
NONCE = "0123456789abcdef"
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20) | st.sampled_from(["ok", "exception", "exit", "memory", "invalid_code", "timeout", "NONCE"])
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)  # fmt: skip
MESSAGES = st.dictionaries(
    st.sampled_from(["nonce", "runner", "outcome", "error", "ready", "broken", "crowded", "id"]), VALUES, max_size=5
)
PIDS = st.sampled_from(["PID", "PPID"]) | st.integers(-2, 1 << 23)
NEARLY = st.fixed_dictionaries(
    {"nonce": st.just("NONCE")}, optional={"runner": PIDS, "outcome": SCALARS, "error": SCALARS}
)
FRAMES = (
    st.binary(max_size=60)
    | st.builds(lambda message: ("frame", message), MESSAGES | NEARLY)
    | st.builds(lambda message, cut: ("cut", message, cut), NEARLY, st.integers(0, 40))
    | st.builds(lambda size: ("header", size), st.integers(0, (1 << 32) - 1))
)
THEN = st.sampled_from(["pass", "time.sleep(0.05)", "os._exit(3)", "1 / 0", "sys.exit()", "os.fork()", "os.close(4)", "os.kill(os.getpid(), 9)"])  # fmt: skip
SEND = """
import json, os, sys, time
frame = sys._getframe()
while frame.f_back is not None and "nonce" not in frame.f_locals:
    frame = frame.f_back
nonce = frame.f_locals.get("nonce")
def real(value):
    if isinstance(value, dict): return {real(k): real(v) for k, v in value.items()}
    if isinstance(value, list): return [real(v) for v in value]
    return {"NONCE": nonce, "PID": os.getpid(), "PPID": os.getppid()}.get(value, value) if isinstance(value, str) else value
for part in PARTS:
    if part[0] == "bytes": data = bytes(part[1])
    elif part[0] == "header": data = part[1].to_bytes(4, "big")
    else:
        data = json.dumps(real(part[1])).encode()
        data = len(data).to_bytes(4, "big") + data
        if part[0] == "cut": data = data[:part[2]]
    os.write(4, data)
"""


def spelled(parts: list[object]) -> str:
    """The snippet that sends them."""
    plain = [["bytes", list(part)] if isinstance(part, bytes) else list(part) for part in parts]  # type: ignore[call-overload]
    return SEND.replace("PARTS", f"json.loads({json.dumps(plain)!r})")


@settings(deadline=None, max_examples=300)
@given(MESSAGES, st.sampled_from(["", NONCE]))
def test_any_object_is_a_report_or_refused(message: dict[str, object], nonce: str) -> None:
    if "nonce" in message:
        message["nonce"] = NONCE
    with contextlib.suppress(BadReport, NotReady):
        assert isinstance(parse(message, nonce), Ready | Runner | Outcome | Crowded)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=80), max_size=8))
def test_any_bytes_are_reports_or_refused(parts: list[bytes]) -> None:
    readable, writable = os.pipe()
    try:
        os.set_blocking(readable, False)
        reports = Reports(readable)
        with contextlib.suppress(BadReport, NotReady, FrameError):
            for part in parts:
                os.write(writable, part)
                reports.take(NONCE)
    finally:
        os.close(readable)
        os.close(writable)


def test_a_report_is_what_decodes() -> None:
    assert parse(decode(b'{"nonce":"n","outcome":"ok","error":null}'), "n") == Outcome("ok", None)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 4 + 300)
def test_no_report_ends_the_guest(backend: str) -> None:
    """Live: snippets send what Hypothesis makes up, as a session's first and as its second."""
    limits = Limits(wall_s=0.5, cpu_s=2.0, memory_mb=256, output_kb=16)
    # A loop of its own: Hypothesis does not call coroutines.
    with asyncio.Runner() as runner:
        box: Sandbox
        end = 0.0
        attacks = 0

        async def attack(code: str, first: bool) -> None:
            nonlocal attacks
            async with box.session() as session:
                if not first:
                    await session.run("x = 1")
                result = await session.run(code)
                assert isinstance(result.status, Status)
                json.dumps([result.stdout, result.error], ensure_ascii=False).encode("utf-8")
                await session.run("print(1)")
            async with box.session() as session:
                assert (await session.run("print(2)")).stdout == "2\n"
            (lane,) = await box.stats()
            assert (lane["strays"], lane["sessions"], lane["scratch_entries"]) == (0, 0, 0)
            assert box.guests_started == 1
            attacks += 1

        @settings(deadline=None, max_examples=60, database=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(st.lists(FRAMES, min_size=1, max_size=5), THEN, st.booleans())
        def fuzz(parts: list[object], then: str, first: bool) -> None:
            if time.monotonic() < end:
                runner.run(attack(spelled(parts) + then, first))

        used = 0.0
        while used < SECONDS:
            box = runner.run(opened(backend, limits))
            # Opening may take longer than all of the fuzzing, so it does not count.
            start = time.monotonic()
            end = start + min(RENEWED_S, SECONDS - used)
            try:
                while time.monotonic() < end:
                    fuzz()
            finally:
                runner.run(box.close())
            used += time.monotonic() - start
        assert attacks
