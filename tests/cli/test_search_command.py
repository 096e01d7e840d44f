"""`genprm search` and `genprm refine` with a known policy and judge, and with the built-in models."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from genprm.cli import search
from genprm.cli.main import app
from genprm.engines.errors import EngineError
from genprm.search.policy import Policy
from tests.benchmarks.shared import shared_data
from tests.fakes import RuleEngine
from tests.search.shared import TruthJudge

ROOT = Path(__file__).parent.parent.parent
PROBLEMS = [{"id": f"p{number}", "problem": f"problem {number}", "answer": str(number % 2)} for number in range(6)]
RECIPE = {
    "problems": {"files": ["problems.jsonl"]},
    "policy": {"model": "rule", "prompt": "{{ problem }}"},
    "prm": {"model": "truth", "mode": "analyze"},
    "n": 4,
    "width": 2,
}


def solution(text: str, seed: int) -> str:
    """Writes one step, then an answer chosen by the seed."""
    whole = [f"step {seed % 3}\n\n", f"\\boxed{{{seed % 2}}}<eos>"]
    return "".join(whole[text.count("\n\n") :])


@pytest.fixture
def known(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    engine, judge = RuleEngine(solution), TruthJudge(lambda step: {"0": 0.2, "1": 0.9, "2": 0.6}[step.strip("}")[-1]])

    @asynccontextmanager
    async def policy_of(recipe, seed, run):
        yield None if recipe is None else Policy(engine, recipe)

    @asynccontextmanager
    async def prm_of(recipe, seed, run):
        yield None if recipe is None else judge

    monkeypatch.setattr(search, "policy_of", policy_of)
    monkeypatch.setattr(search, "prm_of", prm_of)
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, PROBLEMS)))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return engine, judge


def genprm(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})


def rows(folder="run"):
    found = [json.loads(line) for line in Path(folder, "rows.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in found}) == len(found)
    return {row["id"]: {key: value for key, value in row.items() if key != "seconds"} for row in found}


def test_a_search_from_recipe_to_page(known, tmp_path):
    result = genprm("search", "recipe.yaml", "--out", "run", "--limit", "5", "--set", "choose=weighted")
    assert result.exit_code == 0, result.output
    assert "accuracy of the choice" in result.stdout
    assert len(rows()) == 5
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["graded"] == 5
    assert [cost["n"] for cost in metrics["costs"]] == [1, 2, 4]
    assert (tmp_path / "run/accuracy.svg").read_text().startswith("<?xml")
    assert genprm("view", "run", "--out", "page.html").exit_code == 0
    # The resolved recipe repeats the search.
    again = genprm("search", "run/recipe.yaml", "--out", "again")
    assert again.exit_code == 0, again.output
    assert rows("again") == rows()
    compared = genprm("bench", "compare", "run", "again")
    assert "best-of-n, n=4" in compared.stdout
    changed = genprm("search", "recipe.yaml", "--out", "run", "--limit", "5")
    assert changed.exit_code == 2
    assert "choose: 'weighted' -> 'best'" in changed.output


@pytest.mark.parametrize("method", ["beam", "dvts"])
def test_a_tree_search(known, method):
    result = genprm("search", "recipe.yaml", "--out", "run", "--set", f"method={method}")
    assert result.exit_code == 0, result.output
    assert all(row["nodes"] for row in rows().values())
    assert genprm("view", "run").exit_code == 0


def test_what_failed_is_done_by_the_next_run_and_nothing_else_is(known, monkeypatch):
    engine, _ = known
    broken = {"problem 2", "problem 4"}

    def rule(text: str, seed: int) -> str:
        if any(problem in engine.prompts[-1] for problem in broken):
            raise EngineError("the server is gone")
        return solution(text, seed)

    engine.rule = rule
    result = genprm("search", "recipe.yaml", "--out", "run")
    assert result.exit_code == 1
    assert "the server is gone" in result.output
    assert set(rows()) == {"p0", "p1", "p3", "p5"}
    broken.clear()
    asked = len(engine.prompts)
    assert genprm("search", "recipe.yaml", "--out", "run").exit_code == 0
    assert len(engine.prompts) - asked == 2 * 4
    assert genprm("search", "recipe.yaml", "--out", "whole").exit_code == 0
    assert rows("whole") == rows()


def test_wrong_recipes_and_empty_sources(known, tmp_path):
    assert "less than or equal to 2" in genprm("search", "recipe.yaml", "--set", "policy.temperature=3").output
    result = genprm("search", "recipe.yaml", "--set", "policy.temprature=1")
    assert result.exit_code == 2
    assert "the nearest one is 'temperature'" in result.output
    (tmp_path / "problems.jsonl").write_text("")
    for command in (("search", "recipe.yaml"), ("refine", "problems.jsonl")):
        empty = genprm(*command, "--out", "empty")
        assert empty.exit_code == 2
        assert "there are no problems in 'problems.jsonl'" in empty.output
    assert not (tmp_path / "empty").exists()


def test_a_run_stopped_before_its_first_row_says_so(known, monkeypatch, tmp_path):
    asked = []

    async def never(*args, **kwargs):
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        await asyncio.sleep(600)

    monkeypatch.setattr(RuleEngine, "generate", never)
    result = genprm("search", "recipe.yaml", "--out", "run")
    assert result.exit_code == 143
    assert "Stopped. 0 rows are kept" in result.stderr
    assert json.loads((tmp_path / "run/metrics.json").read_text())["interrupted"] is True


def test_a_refinement_from_problems_to_page(known, tmp_path):
    options = ("refine", "problems.jsonl", "--out", "run", "--turns", "2", "--no-code")
    result = genprm(*options)
    assert result.exit_code == 0, result.output
    assert "broken" in result.stdout
    assert all(len(row["after"]) == 3 for row in rows().values())
    assert "6 rows are done" in genprm(*options).stderr
    assert "turns: 2 -> 1" in genprm("refine", "problems.jsonl", "--out", "run", "--turns", "1", "--no-code").output
    assert genprm("view", "run").exit_code == 0
    assert genprm("bench", "compare", "run", "run").exit_code == 0
    assert genprm("refine").exit_code == 2
    auto = genprm("refine", "problems.jsonl", "--out", "auto", "--turns", "0", "--with-code", "auto")
    assert auto.exit_code == 0, auto.output
    assert json.loads((tmp_path / "auto/run.json").read_text())["config"]["prm.mode"] == "auto"


def real(cwd: Path, *arguments: str) -> None:
    """A run in a separate process."""
    command = [sys.executable, "-m", "genprm.cli.main", *arguments, "--sandbox", "bubblewrap", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.shared_data
def test_a_stored_pool_gives_the_numbers_of_the_benchmark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool = shared_data("bon/qwen_math_cot_50.jsonl").resolve()
    recipe = str(ROOT / "recipes" / "pool" / "best-of-n.yaml")
    assert genprm("search", recipe, "--set", f"problems.pool=[{pool}]", "--out", "searched").exit_code == 0
    assert genprm("bench", "best-of-n", str(pool), "--out", "bench").exit_code == 0
    one, other = (json.loads(Path(name, "metrics.json").read_text())["best_of_n"] for name in ("searched", "bench"))
    assert one == other
    assert len(one["ids"]) == 50


@pytest.mark.slow
@pytest.mark.bubblewrap
@pytest.mark.parametrize("name", ["best-of-n", "best-of-n-no-code", "beam", "dvts"])
def test_the_built_in_recipes_run(tmp_path, name):
    recipe = str(ROOT / "recipes" / "built-in" / f"{name}.yaml")
    small = ("--limit", "2", "--set", "n=4", "--set", "width=2", "--set", "problems.generate=2")
    real(tmp_path, "search", recipe, *small)
    found = rows(tmp_path / "run")
    assert len(found) == 2
    for row in found.values():
        assert row["correct"] in (True, False)
        assert row["policy"]["generated"] > 0
        assert all(len(one["scores"]) == len(one["steps"]) for one in row["candidates"] if one["finished"])
        assert bool(row["nodes"]) == (name in ("beam", "dvts"))
        assert any(one["finished"] for one in row["candidates"])


@pytest.mark.slow
@pytest.mark.bubblewrap
def test_the_built_in_models_refine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = (
        "--generate",
        "4",
        "--turns",
        "1",
        "--policy-temperature",
        "1",
        "--policy-max-tokens",
        "256",
        "--sandbox",
        "bubblewrap",
    )
    result = genprm("refine", *options, "--out", "run")
    assert result.exit_code == 0, result.output
    found = rows()
    assert len(found) == 4
    rejected = [row for row in found.values() if not row["turns"][0]["accepted"]]
    assert rejected
    assert all(len(row["turns"]) == 2 and row["turns"][0]["message"] for row in rejected)
