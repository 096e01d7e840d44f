"""`genprm verify` without a real model, which test_end_to_end.py uses."""

import json
import re
from contextlib import asynccontextmanager

import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.runs import opening

ROWS = [
    {"id": "right", "problem": "p", "steps": ["1 = 1", "2 = 2"], "label": -1},
    {"id": "wrong", "problem": "p", "steps": ["1 = 1", "2 = 3"], "label": 1},
    {"id": "missed", "problem": "p", "steps": ["1 = 1"], "label": 0},
]


@pytest.fixture
def solutions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "solutions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def genprm(*arguments: str, stdin: str | None = None):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "120"}, input=stdin)


def test_table_folder_and_page(solutions, judge, tmp_path):
    result = genprm("verify", "solutions.jsonl", "--out", "runs/a")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "right 0.90 0.90 none none ✓" in lines
    assert "wrong 0.90 0.00 step 2 step 2 ✓" in lines
    assert "missed 0.90 none step 1 ✗" in lines
    assert any(line.startswith("F1 against labels 66.7 %") for line in lines)
    assert lines[-1] == "page: runs/a/report.html"
    folder = tmp_path / "runs/a"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["rows"], metrics["failed"], metrics["session"]["rows"]) == (3, 0, 3)
    assert metrics["labels"]["f1"] == pytest.approx(2 / 3)
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "run.json",
        "run.log",
        "rows.jsonl",
        "failures.jsonl",
        "metrics.json",
        "report.html",
    }


def test_the_same_command_goes_on_and_a_changed_one_is_refused(solutions, judge):
    genprm("verify", "solutions.jsonl", "--out", "run", "--limit", "2")
    result = genprm("verify", "solutions.jsonl", "--out", "run")
    assert result.exit_code == 0
    assert "2 rows are done" in result.stderr
    assert len(judge.judged) == 3
    result = genprm("verify", "solutions.jsonl", "--out", "run", "--votes", "4", "--threshold", "0.4", "--no-code")
    assert result.exit_code == 2
    assert "mode: 'execute' -> 'analyze'" in result.stderr
    assert "threshold: 0.5 -> 0.4" in result.stderr
    assert "votes: 1 -> 4" in result.stderr
    assert "model" not in result.stderr
    result = genprm("verify", "solutions.jsonl", "--out", "run", "--votes", "4", "--clean")
    assert result.exit_code == 0
    assert len(judge.judged) == 6


def test_without_out_each_configuration_has_its_folder(solutions, judge, tmp_path):
    for arguments in ([], ["--votes", "2"], [], ["--concurrency", "2", "--limit", "1"]):
        assert genprm("verify", "solutions.jsonl", *arguments).exit_code == 0
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert all(name.startswith("solutions-") for name in folders)


def test_failures_are_shown_and_the_exit_code_says_so(solutions, judge):
    with solutions.open("a") as file:
        file.write('{"problem": "p"}\n' + json.dumps({"problem": "p", "steps": ["raise"]}) + "\n")
    result = genprm("verify", "solutions.jsonl", "--out", "run")
    assert result.exit_code == 1
    assert 'failed solutions.jsonl, line 4: a row needs "steps"' in result.stderr
    assert "failed solutions.jsonl, line 5: the server is gone" in result.stderr
    assert "3" in result.stdout


def test_standard_input(judge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = genprm("verify", "-", "--out", "run", stdin=json.dumps(ROWS))
    assert result.exit_code == 0, result.output
    assert len(judge.judged) == 3


def test_a_server_that_is_gone(tmp_path, judge, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"problem": str(n), "steps": ["raise"]}) + "\n" for n in range(99))
    )
    result = genprm("verify", "in.jsonl", "--out", "run")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert re.search(r"gave up: \d+ rows failed one after the other. The last: the server is gone", said)
    assert json.loads((tmp_path / "run/metrics.json").read_text())["interrupted"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jsonl"], "cannot read 'nothing.jsonl': No such file or directory"),
        (["solutions.jsonl", "--mode", "direct", "--with-code"], "mode 'direct' contradicts --with-code"),
        (["solutions.jsonl", "--out", "."], "is not a run's folder and not empty"),
        (["solutions.jsonl", "--model"], "requires an argument"),
        ([], "Missing argument 'FILE'"),
    ],
)
def test_wrong_usage_is_one_message_and_code_2(solutions, judge, arguments, message):
    result = genprm("verify", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_bug_is_reported_without_a_traceback_unless_asked_for(solutions, monkeypatch):
    @asynccontextmanager
    async def open_judge(config, *, seed, run, rows, tell):
        raise ZeroDivisionError("a [bug]")
        yield

    monkeypatch.setattr(opening, "open_judge", open_judge)
    result = genprm("verify", "solutions.jsonl", "--out", "run")
    assert result.exit_code == 1
    assert "ZeroDivisionError: a [bug]" in result.stderr
    assert "Traceback" not in result.stderr
    result = genprm("--debug", "verify", "solutions.jsonl", "--out", "run")
    assert isinstance(result.exception, ZeroDivisionError)


def test_view(solutions, judge, tmp_path):
    genprm("verify", "solutions.jsonl", "--out", "run")
    (tmp_path / "run/report.html").unlink()
    result = genprm("view", "run")
    assert (result.exit_code, result.stdout) == (0, "run/report.html\n")
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
    result = genprm("view", "run", "--out", "other.html", "--max-mb", "0")
    assert "without the texts of 3" in result.stderr
    assert (tmp_path / "other.html").exists()
    result = genprm("view", ".")
    assert result.exit_code == 2
    assert "'.' is not the folder of a run: it has no run.json" in result.stderr


def test_version():
    result = genprm("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("genprm ")
