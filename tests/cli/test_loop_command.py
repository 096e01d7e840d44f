"""`genprm loop` on the built-in models: killed in the middle of a stage, resumed, and stopped by a gate."""

from __future__ import annotations

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
from genprm.data.word_problems import make_problems

pytestmark = [
    pytest.mark.slow,
    pytest.mark.bubblewrap,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]
CHOICES = [f"{section}.sandbox=bubblewrap" for section in ("synthesize", "train", "benchmark", "search.prm")]
ARGUMENTS = ["loop", "builtin:loop-tiny", "--out", "run"]
for choice in CHOICES:
    ARGUMENTS += ["--set", choice]
STAGES = ["held-out", *(f"round-1/{stage}" for stage in ("label", "synthesize", "train", "benchmark", "search"))]


def loop(*more: str):
    return CliRunner().invoke(app, [*ARGUMENTS, *more], env={"COLUMNS": "160", "OMP_NUM_THREADS": "1"})


def genprm(*arguments: str):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})


def stages(run: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (run / "rows.jsonl").read_text().splitlines()]


def test_failed_rows_are_labelled_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": one.id, "problem": one.text, "answer": one.answer} for one in make_problems(3, 100)]
    source, failures = tmp_path / "a.jsonl", tmp_path / "run/round-1/label/failures.jsonl"
    without = [rows[0], {**rows[1], "answer": None}, rows[2]]
    options = ("--set", "problems.files=[a.jsonl]", "--set", "benchmark=null", "--set", "gates.labelled=1000")
    source.write_text("".join(json.dumps(row) + "\n" for row in without))
    stopped = loop(*options)
    assert stopped.exit_code == 1
    assert "round-1/label: failed rows: 1, and gates.failed allows 0" in " ".join(stopped.output.split())
    assert "no `answer` to compare with" in failures.read_text()
    assert stages(tmp_path / "run") == []
    labels = tmp_path / "run/round-1/label/rows.jsonl"
    before = labels.read_bytes()
    assert before.count(b"\n") == 2

    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = loop(*options)
    assert "gates.labelled asks for 1000" in " ".join(again.output.split())  # the stage is finished
    assert labels.read_bytes().startswith(before)
    assert labels.read_bytes().count(b"\n") == 3
    assert failures.read_bytes() == b""


def test_a_loop_goes_on_after_a_kill_and_ends_in_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, labels = tmp_path / "run", tmp_path / "run" / "round-1" / "label" / "rows.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-m", "genprm", *ARGUMENTS], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE
    )
    try:
        for _ in range(6000):
            if child.poll() is not None or (labels.exists() and labels.read_bytes().count(b"\n") >= 3):
                break
            time.sleep(0.1)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert stages(run) == STAGES[:1]
    before = labels.read_bytes()
    before = before[: before.rindex(b"\n") + 1]

    stopped = loop("--set", "gates.kept=1000")
    assert stopped.exit_code == 1
    assert "and gates.kept asks for 1000" in " ".join(stopped.output.split())
    assert stages(run) == STAGES[:2]
    assert "Stopped." in (run / "report.html").read_text()
    assert "gates.kept asks for 1000" in " ".join(genprm("show", "run").stderr.split())

    done = loop()
    assert done.exit_code == 0, done.output
    assert stages(run) == STAGES
    assert labels.read_bytes().startswith(before)  # what was labelled before the kill was not labelled again
    assert len(labels.read_bytes().splitlines()) == 12
    page = (run / "report.html").read_text()
    assert "Stopped." not in page
    assert "round-1/train/curves.png" in page
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    figures = {row["key"]: row["figures"] for row in rows}
    assert figures["round-1/synthesize"]["kept"] == figures["round-1/train"]["critiques"]
    assert 0 <= figures["round-1/benchmark"]["f1"] <= 1
    held_out = [json.loads(line) for line in (run / "held-out" / "held-out.jsonl").read_text().splitlines()]
    learned = {json.loads(line)["problem"] for line in labels.read_text().splitlines()}
    assert not learned & {row["problem"] for row in held_out}
    config = json.loads((run / "round-1/benchmark/run.json").read_text())["config"]
    assert config["model"] == "run/round-1/train"

    shown = genprm("show", "run")
    assert [line.split()[0] for line in shown.stdout.splitlines() if line.startswith(("held-out", "round-"))] == STAGES
    printed = json.loads(loop("--json").stdout)
    assert [(row["key"], row["figures"]) for row in printed["metrics"]["stages"]] == list(figures.items())
    assert printed == json.loads(genprm("show", "run", "--json").stdout)
    trained = genprm("show", "run/round-1/train")
    assert f"steps {figures['round-1/train']['steps']}" in " ".join(trained.stdout.split())

    again = loop("--set", "seed=1")
    assert again.exit_code == 2
    assert "seed: 0 -> 1" in again.output
