"""Terminal output: hostile text, encodings, Ctrl-C."""

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.table import Table

from genprm.benchmarks.metrics import Tally
from genprm.cli import summary
from genprm.cli.terminal import EscapedFormatter, console, escaped
from genprm.runs.rows import FailureRow, verify_row
from tests.conftest import ROOT
from tests.judges import ArithmeticJudge, row

HOSTILE = "id\x1b[2J\x1b]0;title\x07\x9b31m\u202egnirts\r\x7f\ud800"
ENV = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("terminal", [True, False])
async def test_no_text_acts_on_the_terminal(terminal):
    out = io.StringIO()
    out.isatty = lambda: terminal
    made = console(out)
    judged = verify_row(row(0, "1 = 1"), await ArithmeticJudge().judge("p", ["1 = 1"]), seconds=1.0)
    summary.print_rows(made, [judged.model_copy(update={"id": HOSTILE})])
    tally = Tally()
    tally.add(judged)
    summary.print_summary(made, tally.metrics(failed=1))
    failure = FailureRow(key=None, file=HOSTILE, line=3, kind="input", reason=f"[red]not markup[/] {HOSTILE}")
    summary.print_failures(made, [failure], HOSTILE)
    table = Table(title=HOSTILE)
    table.add_row(HOSTILE)
    made.print(table)
    made.print(HOSTILE, markup=False)
    text = out.getvalue()
    for bad in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e", "\r", "\x7f", "\ud800"):
        assert bad not in text
    assert r"\x1b[2J" in text
    assert "[red]not markup[/]" in text
    # Its own colours are still there.
    assert ("\x1b[" in text) is (terminal and "NO_COLOR" not in os.environ)


def test_what_is_escaped_and_what_is_not():
    assert escaped("a\tb\nc — ✓ é 中 😀") == "a\tb\nc — ✓ é 中 😀"
    assert escaped("\x1b\u2066\ufeff") == r"\x1b\u2066\ufeff"


def test_logs_are_escaped():
    import logging

    record = logging.LogRecord("genprm", logging.INFO, "f", 1, "said %s", (HOSTILE,), None)
    assert "\x1b" not in EscapedFormatter("%(message)s").format(record)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    ("arguments", "printed"), [(["doctor"], rb"\u2713"), (["verify", "in.jsonl", "--mode", "analyze"], rb"\u03c0-1")]
)
@pytest.mark.slow
def test_an_output_that_is_not_utf8(tmp_path, arguments, printed, encoding):
    row = {"id": "π-1", "problem": "Wie groß ist 1 + 1?", "steps": ["So 1+1 = 2."], "label": -1}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    done = subprocess.run(
        [sys.executable, "-m", "genprm", *arguments],
        cwd=tmp_path,
        env=ENV | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert b"UnicodeEncodeError" not in done.stdout + done.stderr
    assert printed in done.stdout, done.stderr


def _started(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "genprm", *arguments], env=ENV, **options)


def _is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_waits_for_standard_input_ends_cleanly(tmp_path, number, code):
    """An endless input from a terminal: one signal stops and keeps finished rows."""
    ours, theirs = pty.openpty()
    process = _started(
        "verify", "-", "--no-code", "--out", str(tmp_path / "run"), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        os.write(ours, (json.dumps({"problem": "1+1?", "steps": ["1+1 = 2."]}) + "\n").encode())
        rows = tmp_path / "run" / "rows.jsonl"
        end = time.monotonic() + 200
        while not (rows.exists() and rows.stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        process.send_signal(number)
        said = b""
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                said += part
        assert process.wait(60) == code, said
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    for noise in (b"Traceback", b"Fatal Python error", b"Exception ignored"):
        assert noise not in said
    assert b"1 row" in said
    assert b"Reading rows from standard input; Ctrl-D ends them." in said
    assert b"nano judges by its code alone" in said
    assert len(rows.read_text().splitlines()) == 1


def test_a_second_signal_ends_at_once(tmp_path):
    program = (
        "import asyncio, subprocess, sys\n"
        "from genprm.cli.boundary import run_async\n"
        "async def stubborn():\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    print(child.pid, flush=True)\n"
        "    while True:\n"
        "        try:\n"
        "            await asyncio.sleep(600)\n"
        "        except asyncio.CancelledError:\n"
        "            print('cancelled', flush=True)\n"
        "run_async(stubborn())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cancelled\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    said = process.stderr.read()
    assert "Ctrl-C again stops at once" in said
    assert "Traceback" not in said
    process.stdout.close()
    process.stderr.close()
    end = time.monotonic() + 10
    while _is_running(child):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.bubblewrap
def test_a_snippet_does_not_act_on_the_terminal(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(r"print('\x1b[2Jx'); raise ValueError('\x1b[2J')")
    ours, theirs = pty.openpty()
    process = _started("sandbox", "run", str(file), "--sandbox", "bubblewrap", stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                said += part
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\x1b[2J" not in said
    assert rb"\x1b[2Jx" in said
    assert rb"ValueError: \x1b[2J" in said
