"""What the stages of `genprm loop` are given, and what becomes of their failed rows; the commands are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml

from genprm.cli import label
from genprm.cli.loop import Loop
from genprm.config import RunConfig
from genprm.data.word_problems import make_problems
from genprm.runs.folder import open_run
from genprm.runs.rows import FailureRow
from genprm.search.recipe import read_recipe
from genprm.train.loop import LoopError, LoopRecipe


def recipe_of(folder: Path, **values: Any) -> LoopRecipe:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"problems": {"generate": 2}, **values}))
    return read_recipe(path, LoopRecipe)


def go(folder: Path, recipe: LoopRecipe) -> list[dict[str, Any]]:
    """Runs a loop until it stops. Returns its finished stages."""
    with open_run(folder, command="loop", config={}) as run, pytest.raises((LoopError, Enough)) as stopped:
        Loop(recipe, run).go()
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return [*rows, {"stopped": " ".join(str(stopped.value).split())}]


class Enough(Exception):
    """Ends a loop whose next stages a test does not need."""


def test_a_stage_with_failed_rows_stops_the_loop_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    failing = [2, 2, 0]

    async def label_into(source: object, files: object, *rest: Any, **more: object) -> int:
        how = next(one for one in rest if isinstance(one, RunConfig))
        called.append("label")
        failed = failing.pop(0)
        assert how.out is not None
        with open_run(how.out, command="label", config={}) as run:
            for number in range(failed):
                run.add_failure(FailureRow(key=str(number), file="a.jsonl", line=1, kind="EngineError", reason="no"))
        (how.out / "metrics.json").write_text("{}")
        return 1 if failed else 0

    async def synthesize_into(*_: object) -> int:
        raise Enough

    monkeypatch.setattr(label, "label_into", label_into)
    monkeypatch.setattr("genprm.cli.synthesize.synthesize_into", synthesize_into)
    monkeypatch.setattr("genprm.train.loop.gate", lambda *_: None)
    recipe = recipe_of(tmp_path)
    (end,) = go(tmp_path / "run", recipe)
    assert "round-1/label: failed rows: 2, and gates.failed allows 0." in end["stopped"]
    assert f"{tmp_path}/run/round-1/label/failures.jsonl' names them; the first: no." in end["stopped"]
    assert "Stopped. round-1/label: failed rows: 2" in (tmp_path / "run" / "report.html").read_text()

    allowed = recipe_of(tmp_path, gates={"failed": 2})
    stage, end = go(tmp_path / "allowed", allowed)  # with fewer than may fail, the loop goes on and says how many
    assert (stage["key"], stage["figures"]["failed"]) == ("round-1/label", 2)

    stage, end = go(tmp_path / "run", recipe)
    assert (stage["key"], end["stopped"]) == ("round-1/label", "")
    assert "failed" not in stage["figures"]
    assert len(called) == 3


def test_no_round_learns_from_what_the_judge_is_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_problems(2, 7)[0].text
    files = {
        "learn": [{"problem": text, "answer": "1"} for text in ("a", "b", "c", "d", made)],
        "search": [{"problem": "b", "answer": "1"}],
        "marked": [{"problem": "c", "steps": ["x"], "label": 0}],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    learned: list[set[str]] = []

    async def label_into(source: Any, files: Any, *rest: Any, without: Collection[str] = ()) -> int:
        if files:
            learned.append({row.problem for row in label.problems_of(source, files, rest[-2], without)})
            raise Enough
        with open_run(rest[-2].out, command="label", config={}):
            pass
        (rest[-2].out / "metrics.json").write_text("{}")
        return 0

    monkeypatch.setattr(label, "label_into", label_into)
    base = {
        "problems": {"files": [str(tmp_path / "learn.jsonl")]},
        "search": {"problems": {"files": [str(tmp_path / "search.jsonl")]}, "policy": {}},
    }
    go(tmp_path / "files", recipe_of(tmp_path, **base, benchmark={"files": [str(tmp_path / "marked.jsonl")]}))
    go(tmp_path / "made", recipe_of(tmp_path, **base, benchmark={"generate": 2, "generate_seed": 7}))
    assert learned == [{"a", "d", made}, {"a", "c", "d"}]
