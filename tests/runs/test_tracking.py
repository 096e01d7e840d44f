"""`--track`: with the real Trackio, into a local folder and without a network."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from genprm.extras import ExtraError
from genprm.runs import tracking
from tests.conftest import ROOT

PROGRAM = """
import sys
from contextlib import asynccontextmanager
from genprm.runs import opening
from tests.judges import ArithmeticJudge
@asynccontextmanager
async def open_judge(config, **_):
    yield ArithmeticJudge()
opening.open_judge = open_judge
from genprm.cli.main import main
sys.argv = ["genprm", *sys.argv[1:]]
main()
"""


def test_a_run_at_trackio(tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"problem": "p", "steps": ["1 = 2"], "label": 0}) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "verify", "in.jsonl", "--out", "run", "--track", "trackio"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TRACKIO_DIR": str(tmp_path / "kept"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Trackio project" not in done.stdout + done.stderr
    assert "trackio: project genprm, run run" in done.stderr
    with sqlite3.connect(tmp_path / "kept/genprm.db") as kept:
        logged = [json.loads(row[0]) for row in kept.execute("select metrics from metrics")]
    kept.close()
    assert {**logged[-1], "rows": 1, "judged_wrong": 1} == logged[-1]
    assert logged[-1]["tokens/generated"] == 5


def test_a_tracker_that_is_not_installed_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=r"--track wandb needs wandb: pip install 'genprm\[wandb\]'"):
        tracking.check_tracker("wandb")
    tracking.check_tracker("none")


def test_numbers_by_their_path():
    values = {"rows": 2, "labels": {"f1": 0.5, "name": "x"}, "interrupted": False, "none": None}
    assert tracking.numbers(values) == {"rows": 2, "labels/f1": 0.5}
