"""Every engine as a user would name it: the same verdicts of the examples, and a server as teacher."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.engines import BUILT_IN
from genprm.rpe.rows import Drop, SynthesisRow
from genprm.runs.folder import read_rows_of
from tests.conftest import Distributions
from tests.engines.conftest import VLLM_ENV, need_vllm, vllm_server
from tests.rpe.test_synthesis import label_run

ROOT = Path(__file__).parent.parent.parent
PROBLEMS = 2
pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.bubblewrap, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nano_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` with the built-in judge; its base URL."""
    need_vllm()
    with vllm_server(BUILT_IN["nano"], tmp_path_factory.mktemp("server") / "log.txt") as url:
        yield url


def judged(out: Path, *options: str) -> dict[str, dict[str, object]]:
    command = [sys.executable, "-m", "genprm.cli.main", "verify", str(ROOT / "examples" / "solutions.jsonl")]
    command += ["--with-code", "--sandbox", "bubblewrap", "--temperature", "0", "--out", str(out), *options]
    done = subprocess.run(command, env=os.environ | VLLM_ENV, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return {row["id"]: row for row in rows}


def test_three_engines_give_the_same_verdicts(nano_server: str, tmp_path: Path) -> None:
    plain = judged(tmp_path / "transformers", "--engine", "transformers")
    assert len(plain) == 12
    for name, options in {"vllm": ("--engine", "vllm"), "openai": ("--base-url", nano_server)}.items():
        other = judged(tmp_path / name, *options)
        assert {key: row["verdicts"] for key, row in other.items()} == {
            key: row["verdicts"] for key, row in plain.items()
        }
        for key, row in other.items():
            assert row["scores"] == pytest.approx(plain[key]["scores"], abs=0.02)


def test_a_server_is_a_teacher(nano_server: str, tmp_path: Path) -> None:
    labels = label_run(tmp_path / "labels", PROBLEMS)
    command = ["synthesize", str(labels), "--teacher", "nano", "--base-url", nano_server, "--temperature", "1"]
    command += ["--max-tokens", "100", "--sandbox", "bubblewrap", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output + result.stderr
    rows = list(read_rows_of(tmp_path / "run", SynthesisRow))
    assert len(rows) == 4 * PROBLEMS
    # The built-in judge writes another layout, so its review is not kept; but it was called, and it answered.
    asked = [row for row in rows if row.dropped is not Drop.UNDECIDED]
    assert len(asked) == 3 * PROBLEMS
    assert all(row.generated > 0 for row in asked)
    assert all(row.generated == 0 for row in rows if row.dropped is Drop.UNDECIDED)


def test_a_clean_environment_without_pytorch_asks_a_server(
    nano_server: str, distributions: Distributions, tmp_path: Path
) -> None:
    """`pip install genprm` and `--base-url` are enough; a local model names the missing extra in one sentence."""
    uv = [sys.executable, "-m", "uv", "-q"]
    python = tmp_path / "env" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    made = run(*uv, "venv", "--python", sys.executable, tmp_path / "env")
    assert made.returncode == 0, made.stderr
    constraints = ROOT / "constraints.txt"
    installed = run(*uv, "pip", "install", "--python", python, "-c", constraints, distributions.wheel)
    assert installed.returncode == 0, installed.stderr
    for name in ("torch", "transformers", "vllm"):
        assert run(python, "-c", f"import {name}").returncode == 1

    options = ["--with-code", "--sandbox", "bubblewrap", "--temperature", "0"]
    examples = ROOT / "examples" / "solutions.jsonl"
    done = run(python, "-m", "genprm", "verify", examples, *options, "--base-url", nano_server, "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["rows"], metrics["labels"]["f1"]) == (12, 1.0)
    assert (tmp_path / "run" / "report.html").exists()

    local = run(python, "-m", "genprm", "demo")
    assert local.returncode == 1
    assert "pip install 'genprm[torch]'" in local.stderr
    assert "Traceback" not in local.stderr
