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
from tests.train.test_sft import conversation

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


def tracked(tmp_path, *command):
    """What a command logs at Trackio, and what it says."""
    done = subprocess.run(
        [sys.executable, *command, "--out", "run", "--track", "trackio"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TRACKIO_DIR": str(tmp_path / "kept"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Trackio project" not in done.stdout + done.stderr
    (database,) = (tmp_path / "kept").glob("*.db")
    with sqlite3.connect(database) as kept:
        logged = [json.loads(row[0]) for row in kept.execute("select metrics from metrics")]
    kept.close()
    return logged, done.stderr


def test_a_run_at_trackio(tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"problem": "p", "steps": ["1 = 2"], "label": 0}) + "\n")
    logged, said = tracked(tmp_path, "-c", PROGRAM, "verify", "in.jsonl")
    assert "trackio: project genprm, run run" in said
    assert {**logged[-1], "rows": 1, "judged_wrong": 1} == logged[-1]
    assert logged[-1]["tokens/generated"] == 5


@pytest.mark.slow
@pytest.mark.bubblewrap
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["label", "--generate", "1", "--first", "4", "--most", "4", "--max-tokens", "96"], "rollouts"),
        (["search", "builtin:best-of-n", "--limit", "1", "--set", "n=2"], "accuracy"),
        (["bench", "processbench", "subset.jsonl", "--mode", "analyze"], "judged_right"),
        (["train", "sft", "rows.jsonl", "--max-steps", "2", "--batch-size", "2", "--log-steps", "1"], "loss"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_other_commands_at_trackio(tmp_path, command, expected):
    rows = [{"problem": "What is 1+1?", "steps": ["So 1+1 = 2."], "label": -1}]
    rows.append({"problem": "What is 1+1?", "steps": ["So 1+1 = 3."], "label": 0})
    (tmp_path / "subset.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(conversation(n)) + "\n" for n in range(4)))
    logged, _ = tracked(tmp_path, "-m", "genprm", *command)
    assert any(expected in values for values in logged), logged


def test_a_tracker_that_is_not_installed_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=r"--track wandb needs wandb: pip install 'genprm\[wandb\]'"):
        tracking.check_tracker("wandb")
    tracking.check_tracker("none")


def test_numbers_by_their_path():
    values = {"rows": 2, "labels": {"f1": 0.5, "name": "x"}, "interrupted": False, "none": None}
    assert tracking.numbers(values) == {"rows": 2, "labels/f1": 0.5}
