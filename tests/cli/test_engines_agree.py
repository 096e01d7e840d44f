"""The examples, judged through every engine as a user would name it: the same verdicts at temperature 0."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.conftest import VLLM_ENV

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.bubblewrap, pytest.mark.timeout(900)]


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
