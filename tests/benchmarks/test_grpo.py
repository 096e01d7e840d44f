"""A short run of the GRPO experiment: all arms, two optimiser steps each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "grpo.py"


def _run(out: Path, *more: str) -> dict[str, Any]:
    sizes = {"seeds": 1, "batch": 16, "problems": 8, "fresh": 12, "judged": 4}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-P", str(SCRIPT), "credit", "--out", str(out), *options, *more]
    run = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.bubblewrap
def test_all_arms_train_and_are_measured(tmp_path: Path) -> None:
    found = _run(tmp_path, "--steps", "2")
    assert set(found["arms"]) == {"before", "outcome", "gated", "step"}
    for name, arm in found["arms"].items():
        right = arm["right"]
        assert 0 <= right["low"] <= right["mean"] <= right["high"] <= 1
        if name != "before":
            assert right["gain"][0] == pytest.approx(right["mean"] - found["arms"]["before"]["right"]["mean"], abs=1e-3)
            assert 0 <= arm["training"][0]["last"]["accuracy"] <= 1
    assert (tmp_path / "judged.jsonl").stat().st_size  # the judge was asked
