"""`genprm bench` with a judge whose answers are known."""

import json
from contextlib import asynccontextmanager

import pytest
from rich.console import Console
from typer.testing import CliRunner

from genprm.benchmarks.comparison import Comparison
from genprm.benchmarks.statistics import Difference, Interval, McNemar
from genprm.cli.bench_tables import print_comparison
from genprm.cli.main import app
from genprm.runs import opening
from tests.judges import ArithmeticJudge

ROWS = [
    {"id": "math-0", "problem": "p", "steps": ["1 = 1", "2 = 2"], "label": -1},
    {"id": "math-1", "problem": "p", "steps": ["1 = 1", "2 = 3"], "label": 1},
    {"id": "math-2", "problem": "p", "steps": ["1 = 1", "x"], "label": 0},
    {"id": "math-3", "problem": "p", "steps": ["raise"], "label": 0},
]


@pytest.fixture
def judge(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    judge = ArithmeticJudge()

    @asynccontextmanager
    async def open_judge(config, *, seed, run, rows, tell):
        run.note({"model": judge.name})
        yield judge

    monkeypatch.setattr(opening, "open_judge", open_judge)
    (tmp_path / "math.json").write_text(json.dumps(ROWS))
    return judge


def genprm(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})


def lines(result):
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_processbench(judge, tmp_path):
    result = genprm("bench", "processbench", "math.json", "--out", "run")
    assert result.exit_code == 1  # one row failed
    assert any(line.startswith("math 4 33.3 100.0 50.0") for line in lines(result)), result.output
    assert "2 rows without a prediction count as wrong; 1 of them failed." in " ".join(lines(result))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["processbench"]["subsets"][0]["f1"] == 0.5
    assert metrics["processbench"]["subsets"][0]["failed"] == 1
    page = (tmp_path / "run/report.html").read_text()
    assert "bench processbench" in page
    again = genprm("bench", "processbench", "math.json", "--out", "run")
    assert "3 rows are done" in again.stderr
    assert len(judge.judged) == 3
    assert genprm("view", "run").exit_code == 0
    assert "seed: 0 -> 1" in genprm("bench", "processbench", "math.json", "--out", "run", "--seed", "1").stderr


def test_what_is_refused_before_anything_is_judged(judge, tmp_path):
    result = genprm("bench", "processbench", "math.json", "--tune-on", "gsm8k")
    assert result.exit_code == 2
    assert "there is no subset 'gsm8k' to tune on; the subsets are math" in result.stderr
    (tmp_path / "bare.jsonl").write_text('{"problem": "p", "steps": ["s"]}')
    result = genprm("bench", "processbench", "bare.jsonl")
    assert (result.exit_code, "has a label" in result.stderr) == (2, True)
    assert genprm("bench", "prmbench", "bare.jsonl").exit_code == 2
    assert genprm("bench", "best-of-n", "bare.jsonl").exit_code == 2
    assert not judge.judged


def test_the_page_shows_which_rows_are_wrong_by_the_threshold_of_the_table(judge, tmp_path):
    judge.threshold = 0.95
    (tmp_path / "math.json").write_text(json.dumps(ROWS[:2]))
    for out, more, found in (("plain", (), [0, 0]), ("tuned", ("--tune-on", "math"), [-1, 1])):
        result = genprm("bench", "processbench", "math.json", "--threshold", "0.95", "--out", out, *more)
        assert result.exit_code == 0, result.output
        page = (tmp_path / out / "report.html").read_text()
        data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
        assert {row["id"]: row["first_error"] for row in data["index"]} == dict(
            zip(("math-0", "math-1"), found, strict=True)
        )
        assert [row["label"] for row in data["index"]] == [-1, 1]


def test_prmbench(judge, tmp_path):
    row = {"modified_question": "q", "modified_process": ["1 = 1", "1 = 2"], "error_steps": [2], "classification": "c"}
    (tmp_path / "prm.jsonl").write_text(json.dumps(row))
    result = genprm("bench", "prmbench", "prm.jsonl", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "total 1 2 100.0 100.0 100.0 100.0 0" in lines(result)


POOL = {
    "question": "q",
    "code": ["1 = 2\n\nThe answer is 5.", "2 = 2\n\n4 = 4"],
    "pred": ["5", "4"],
    "score": [False, True],
    "pred_score": [[2.0], [1.0]],
}


def test_best_of_n_by_stored_rewards_and_by_a_judge(judge, tmp_path):
    (tmp_path / "pool.jsonl").write_text("\n".join(json.dumps({**POOL, "idx": number}) for number in range(3)))
    stored = genprm("bench", "best-of-n", "pool.jsonl", "--out", "stored")
    assert stored.exit_code == 0, stored.output
    assert "best-of-n 2 0.0 0.0 to 0.0" in lines(stored)
    judged = genprm("bench", "best-of-n", "pool.jsonl", "--model", "nano", "--out", "judged")
    assert judged.exit_code == 0, judged.output
    assert "best-of-n 2 100.0 100.0 to 100.0" in lines(judged)
    assert "3 solutions without a reward rank below all others." in lines(judged)
    compared = genprm("bench", "compare", "stored", "judged")
    assert any(line.startswith("best-of-n, n=2 3 0.0 100.0 +100.0") for line in lines(compared)), compared.output


def test_a_comparison_fits_into_eighty_columns(capsys):
    gap = Difference(1.0, Interval(0.999, 1.0), 0.0001)
    part = Comparison("best-of-n, n=256", 345, 0.0, 1.0, gap, McNemar(0, 345, 0.0001))
    print_comparison(Console(width=80, force_terminal=False), "a", "b", [part])
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_compare(judge, tmp_path):
    genprm("bench", "processbench", "math.json", "--out", "a", "--limit", "3")
    result = genprm("bench", "compare", "a", "a")
    assert any(line.startswith("math 3 66.7 66.7 +0.0") for line in lines(result)), result.output
    assert genprm("bench", "compare", "a", "nowhere").exit_code == 2


def test_a_pool_that_is_given_twice_counts_once_and_equal_answers_are_one_group(judge, tmp_path):
    pool = {
        "question": "q",
        "code": ["a"] * 5,
        "pred": ["1/2", "3", "\\frac{1}{2}", "3", "0.5"],
        "score": [1, 0, 1, 0, 1],
    }
    (tmp_path / "pool.jsonl").write_text(json.dumps(pool) + "\n")
    result = genprm("bench", "best-of-n", "pool.jsonl", "pool.jsonl", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "skipped: pool.jsonl, line 1, is the same as pool.jsonl, line 1" in result.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())["best_of_n"]
    assert len(metrics["ids"]) == 1
    assert [one["accuracy"] for one in metrics["methods"] if (one["method"], one["n"]) == ("majority", 5)] == [1.0]
    judged = genprm("bench", "best-of-n", "pool.jsonl", "pool.jsonl", "--model", "x", "--out", "judged")
    assert judged.exit_code == 0, judged.output
    assert len(judge.judged) == 5


def test_verify_says_what_a_pool_is(judge, tmp_path):
    (tmp_path / "pool.jsonl").write_text(json.dumps({"question": "q", "solution": "g", "code": ["a"], "pred": ["1"]}))
    result = genprm("verify", "pool.jsonl")
    assert result.exit_code == 2
    assert "pool.jsonl is a best-of-n pool" in result.stderr
    assert judge.judged == []


def test_repeated_rows_are_named(judge, tmp_path):
    result = genprm("bench", "processbench", "math.json", "math.json", "--out", "run")
    assert "4 repeated rows were skipped: math.json, line 1, is the same as math.json, line 1" in result.stderr
    assert len(judge.judged) == 3
    assert json.loads((tmp_path / "run/metrics.json").read_text())["session"]["duplicates"] == 4
