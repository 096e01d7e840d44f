"""What `genprm search` and `genprm refine` survive: a failing policy server, a dead one, and SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from tests.engines.servers import model_server

ROOT = Path(__file__).parent.parent.parent
RECIPES = ROOT / "recipes" / "built-in"
pytestmark = [pytest.mark.slow, pytest.mark.bubblewrap]

BEST_OF_N = ("search", str(RECIPES / "best-of-n-no-code.yaml"), "--set", "problems.generate=3", "--set", "n=3")
# Without code the built-in PRM rejects nothing. Of these problems the last one needs all turns.
REFINE = (
    "refine", "--generate", "3", "--turns", "2", "--policy-temperature", "1", "--policy-max-tokens", "256",
    "--sandbox", "bubblewrap",
)  # fmt: skip
PATIENCE = {"search": "--set=policy.patience_s={}", "refine": "--policy-patience-s={}"}


def genprm(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})


def rows(folder: str | Path):
    """The rows of a run by key; checks that keys are unique."""
    found = [json.loads(line) for line in Path(folder, "rows.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in found}) == len(found)
    return {row["key"]: row for row in found}


def assert_same(found, expected):
    """Equal except for times and the last digits of scores, which depend on the order of additions."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected.keys() - {"seconds", "duration_s", "cached"}:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def server():
    """The built-in policy, served."""
    with model_server("nano-policy") as server:
        yield server


@pytest.fixture(scope="module", params=[BEST_OF_N, REFINE], ids=["search", "refine"])
def healthy(request, server, tmp_path_factory):
    """A run whose server never failed: its command, rows and number of requests."""
    out = tmp_path_factory.mktemp(request.param[0]) / "run"
    command = (*request.param, "--policy-url", server.url)
    before = server.requests
    result = genprm(*command, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert len(rows(out)) == 3
    assert server.requests - before > 3
    return command, rows(out), server.requests - before


def test_a_policy_server_that_fails_costs_retries_only(server, healthy, tmp_path):
    command, expected, asked = healthy
    # More than the SDK's own retries, so that the engine has to retry.
    server.faults = faults = iter([500, None, "measured", 503, None, "unmeasured", 502, 500, 503, 500, "measured"])
    server.requests, server.deaths, server.dies_at, server.away_s = 0, 0, asked, 1.0
    try:
        result = genprm(*command, "--out", str(tmp_path / "run"))
    finally:
        server.faults, server.dies_at = iter(()), None
    assert result.exit_code == 0, result.output
    assert server.deaths == 1
    assert server.requests > asked
    assert_same(rows(tmp_path / "run"), expected)
    assert not (tmp_path / "run" / "failures.jsonl").read_text()
    assert next(faults, "all happened") == "all happened"


def test_a_policy_server_that_is_gone_ends_the_run_and_the_next_one_goes_on(server, healthy, tmp_path):
    command, expected, asked = healthy
    patient = (*command, PATIENCE[command[0]].format(1), "--concurrency", "1", "--out", str(tmp_path / "run"))
    server.requests, server.deaths, server.dies_at, server.away_s = 0, 0, asked, None
    try:
        result = genprm(*patient)
        assert result.exit_code == 1
        failed = [line for line in result.stderr.splitlines() if line.startswith("failed <")]
        assert failed == [f"failed <generated>, line 3: no server answered for 1 s: {server.url} (Connection refused)"]
        kept = (tmp_path / "run" / "rows.jsonl").read_bytes()
        assert len(rows(tmp_path / "run")) == 2
        again = genprm(*patient)
        assert again.exit_code == 1
        assert f"Error: no server answers at '{server.url}': is it running?" in again.stderr.splitlines()
    finally:
        server.dies_at = None
        server.start()
    result = genprm(*patient)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "rows.jsonl").read_bytes().startswith(kept)
    assert_same(rows(tmp_path / "run"), expected)


SMALL = ("--set", "problems.generate=4", "--set", "n=4", "--set", "width=2", "--concurrency", "1")


@pytest.mark.parametrize(
    "command",
    [
        ("search", str(RECIPES / "best-of-n-no-code.yaml"), *SMALL),
        ("search", str(RECIPES / "beam.yaml"), "--no-code", *SMALL),
        (*REFINE, "--generate", "4", "--generate-seed", "4", "--concurrency", "1"),
    ],
    ids=["best-of-n", "beam", "refine"],
)
def test_a_run_that_is_killed_ends_with_the_same_rows(command, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "genprm.cli.main", *command, "--out", str(killed)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    written = killed / "rows.jsonl"
    deadline = time.monotonic() + 400
    while process.poll() is None and not (written.exists() and written.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    kept = written.read_bytes()
    lines = kept.count(b"\n")
    assert 2 <= lines < 4
    for folder in (killed, whole):
        result = genprm(*command, "--out", str(folder))
        assert result.exit_code == 0, result.output
    assert written.read_bytes().splitlines()[:lines] == kept.splitlines()[:lines]
    assert len(rows(whole)) == 4
    assert_same(rows(killed), rows(whole))
