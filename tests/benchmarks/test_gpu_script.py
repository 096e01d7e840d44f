"""The script for machines with a GPU, at the size of a toy, where there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.bubblewrap, pytest.mark.timeout(600)]


def gpu(*arguments: str, cwd: Path) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--toy", "--sandbox=bubblewrap", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_goes_on_where_it_stopped_and_says_what_it_skipped(tmp_path: Path) -> None:
    first = gpu("--only", "device", cwd=tmp_path)
    assert set(first["stages"]) == {"device"}
    found = gpu(cwd=tmp_path)
    assert found["left"] == []
    stages = found["stages"]
    assert stages["device"] == first["stages"]["device"], "what is there is not measured again"
    assert {name for name, stage in stages.items() if "skipped" in stage} == {"train", "vllm"}
    assert "--data" in stages["train"]["skipped"]
    for shape in ("1.5B", "7B"):
        for name in ("decode_tokens_per_s", "limit_tokens_per_s"):
            assert all(rate > 0 for rate in stages[f"engine-{shape}"][name].values())
    assert stages["chains"]["sandbox"] == "bubblewrap"
    assert set(stages["chains"]["ours"]) == set(stages["chains"]["lock_step"]) == {"1", "2"}
    assert stages["implicit"]["ours_tokens_per_s"] > 0
