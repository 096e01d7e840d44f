"""`genprm` as a user runs it: the built-in model judges the examples, and a real sandbox runs its code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples" / "solutions.jsonl"
pytestmark = [pytest.mark.slow, pytest.mark.bubblewrap]

Row = dict[str, object]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "genprm.cli.main", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def genprm(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=280, check=False
    )


def judged(folder: Path) -> dict[str, Row]:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["id"]: without(row, TIMES) for row in rows}


TIMES = ("seconds", "duration_s", "cached")
"""What depends on what else ran: times, and tokens found in the prefix cache."""
NUMBERS = ("score", "scores", "log_odds")


def without(value, names):
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value


def assert_same_rows(found: dict[str, Row], expected: dict[str, Row]) -> None:
    """Equal, except for the last digits of scores: batches change the order of additions."""
    assert without(found, NUMBERS) == without(expected, NUMBERS)
    for name, row in found.items():
        assert row["scores"] == pytest.approx(expected[name]["scores"], abs=1e-4)


VERIFY = ("verify", str(EXAMPLES), "--with-code", "--sandbox", "bubblewrap", "--temperature", "0", "--out", "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run."""
    cwd = tmp_path_factory.mktemp("finished")
    return cwd / "run", genprm(*VERIFY, cwd=cwd)


def test_the_examples_are_judged(finished):
    folder, result = finished
    assert result.returncode == 0, result.stderr
    rows = judged(folder)
    assert len(rows) == 12
    agreeing = sum(row["first_error"] == row["label"] for row in rows.values())
    assert agreeing >= 10
    snippets = [code for row in rows.values() for step in row["steps"] for code in step["chains"][0]["code"]]
    assert len(snippets) >= sum(len(row["steps"]) for row in rows.values())
    ran = [code for code in snippets if code["status"] == "ok"]
    assert len(ran) > 0.9 * len(snippets)
    assert all(code["stdout"] for code in ran)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["rows"] == 12
    assert metrics["tokens"]["generated"] > 0
    spent = metrics["session"]["time"]
    assert spent["engine_calls"] == metrics["tokens"]["requests"]
    assert spent["sandbox_calls"] == sum(metrics["code"].values())
    assert spent["engine_s"] > 0
    assert spent["sandbox_s"] > 0
    assert 0 < spent["driver_s"] < metrics["session"]["seconds"]
    facts = json.loads((folder / "run.json").read_text())["facts"]
    assert (facts["engine"], facts["sandbox"]) == ("transformers", "bubblewrap")
    assert facts["weights"].startswith("sha256:")


def test_the_table_names_every_solution_and_the_page(finished):
    folder, result = finished
    for line in EXAMPLES.read_text().splitlines():
        assert json.loads(line)["id"] in result.stdout
    assert result.stdout.rstrip().endswith("page: run/report.html")
    assert (folder / "report.html").exists()


def test_a_second_run_has_nothing_to_do(finished):
    folder, _ = finished
    before = (folder / "rows.jsonl").read_bytes()
    result = genprm(*VERIFY, cwd=folder.parent)
    assert result.returncode == 0
    assert "12 rows are done" in result.stderr
    assert (folder / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_was_stopped_ends_with_the_same_rows(finished, tmp_path, number, code):
    arguments = (*VERIFY, "--concurrency", "1")
    # Shells start background jobs with SIGINT ignored, and these tests may be one.
    heeding = ["env", "--default-signal=INT", *command(*arguments)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(heeding, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
        rows = tmp_path / "run" / "rows.jsonl"
        deadline = time.monotonic() + 200
        while process.poll() is None and not (rows.exists() and rows.read_bytes().count(b"\n") >= 2):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == code, (tmp_path / "log").read_text()
    log_text = (tmp_path / "log").read_text()
    assert "Traceback" not in log_text
    if code > 0:
        assert "the same command resumes" in log_text
        assert json.loads((tmp_path / "run/metrics.json").read_text())["interrupted"] is True
    assert 2 <= len(judged(tmp_path / "run")) < 12
    assert genprm(*arguments, cwd=tmp_path).returncode == 0
    assert_same_rows(judged(tmp_path / "run"), judged(finished[0]))


def test_doctor_is_content():
    result = genprm("doctor", cwd=ROOT)
    assert result.returncode == 0, result.stdout
    assert "nano: built in" in result.stdout
    assert "Ready." in result.stdout


def test_doctor_says_when_a_server_is_not_there():
    result = genprm("doctor", "--base-url", "http://127.0.0.1:9/v1", "--base-url", "localhost:8000", cwd=ROOT)
    assert result.returncode == 1
    assert "http://127.0.0.1:9/v1: cannot list its models: [Errno 111] Connection refused" in result.stdout
    assert "a base URL starts with http://" in result.stdout
    assert "Not ready: Servers" in result.stdout
